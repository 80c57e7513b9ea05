package schema

import "fmt"

// Keys of a stream's metadata, which record the ingress that owns the stream and
// the kind of its messages. A stream without them was created by hand, by an older
// version, or on a broker before nats-server 2.10, which keeps no metadata.
const (
	MetadataStream = "versive-ingress.stream" // the event stream of its ingress
	MetadataKind   = "versive-ingress.kind"   // event, quarantine or dead
)

// Metadata returns the metadata of the stream of this kind, given the name of the
// event stream.
func (k Kind) Metadata(events string) map[string]string {
	return map[string]string{MetadataStream: events, MetadataKind: k.name()}
}

// CheckOwner returns an error if, by its metadata, an existing stream is not the
// stream of this kind, given the name of the event stream. The stream's name is
// not enough: the quarantine of ingress A can have the name of the event stream
// of another ingress.
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
