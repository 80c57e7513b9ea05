package schema

import "fmt"

// Keys of a stream's metadata, by which it says whose it is and what it keeps.
// A stream without them was made by hand, by an older version, or on a broker
// before nats-server 2.10, which keeps no metadata.
const (
	MetadataStream = "versive-ingress.stream" // the event stream of its ingress
	MetadataKind   = "versive-ingress.kind"   // event, quarantine or dead
)

// Metadata returns what the stream of this kind says, given the name of the event
// stream.
func (k Kind) Metadata(events string) map[string]string {
	return map[string]string{MetadataStream: events, MetadataKind: k.name()}
}

// CheckOwner returns an error if the metadata of an existing stream says that it
// is not the one of this kind, given the name of the event stream. The stream's
// name alone does not tell: that of the quarantine of A can also be that of the
// events of another ingress.
func (k Kind) CheckOwner(events string, metadata map[string]string) error {
	for key, want := range k.Metadata(events) {
		if have := metadata[key]; have != "" && have != want {
			return fmt.Errorf("is the %s stream of ingress %s, not the %s stream of ingress %s",
				metadata[MetadataKind], metadata[MetadataStream], k.name(), events)
		}
	}
	return nil
}

func (k Kind) name() string { return [...]string{"event", "quarantine", "dead"}[k] }
