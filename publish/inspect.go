package publish

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A Gap is where a stream, as it is configured, falls short of what the promise
// needs or of what was asked for.
type Gap struct {
	Name    string // one word, for programs
	Problem string // what the stream is or does: "is stored in memory"
	Why     string // it matters
	Remedy  string // a command, or settings, to paste
	Weight  Weight
}

// Weight says what a [Publisher] does about a [Gap].
type Weight int

const (
	// Kept: nothing. An operator may have wanted it so.
	Kept Weight = iota
	// Widened: Open mends it, for it takes nothing from anybody.
	Widened
	// Refused: nothing is published to such a stream; see [ConflictError].
	Refused
)

// unclaimed is the name of the only gap without which the promise holds as well.
const unclaimed = "unclaimed"

// Inspect returns the gaps of an existing stream for a kind of message, those
// first that weigh most. There are none in a stream that Open has created. Of
// the fields of Config it uses those that describe the streams.
func (c Config) Inspect(kind schema.Kind, have jetstream.StreamConfig) []Gap {
	_, gaps := c.inspect(kind, have)
	return gaps
}

// inspect returns have with every gap closed that can be, too. What an operator
// has set by hand is never narrowed.
func (c Config) inspect(kind schema.Kind, have jetstream.StreamConfig) (wider jetstream.StreamConfig, gaps []Gap) {
	want := c.desired(kind)
	gaps = c.conflicts(kind, have)
	add := func(weight Weight, name, problem, why, flags string) {
		gaps = append(gaps, Gap{name, problem, why, edit(want.Name, flags), weight})
	}

	wider = have
	if !slices.Contains(have.Subjects, want.Subjects[0]) {
		add(Widened, "subjects", fmt.Sprintf("has the subjects %q, not %q", have.Subjects, want.Subjects[0]),
			"what is published has nowhere to go; what is in the stream under another subject is known only within the duplicate window",
			subjectFlags(have.Subjects, want.Subjects[0]))
		wider.Subjects = append(slices.Clone(have.Subjects), want.Subjects...)
	}
	if have.Discard != want.Discard && !limited(have) {
		add(Widened, "discard", "would discard old messages at a limit", "a limit that is set later would lose events in silence", "--discard new")
		wider.Discard = want.Discard
	}
	if have.Replicas < want.Replicas {
		add(Widened, "replicas", fmt.Sprintf("has %d of %d replicas", have.Replicas, want.Replicas),
			"fewer disks hold an event than INGRESS_REPLICAS says", fmt.Sprintf("--replicas %d", want.Replicas))
		wider.Replicas = want.Replicas
	}
	if !have.AllowDirect {
		add(Widened, "direct_get", "does not allow direct get", "what is in it can be looked up by way of its leader only", "--allow-direct")
		wider.AllowDirect = true
	}
	if !have.AllowAtomicPublish {
		add(Widened, "atomic_publish", "does not allow atomic batches", "every event costs a commit of its own", "--allow-batch")
		wider.AllowAtomicPublish = true
	}

	if have.Metadata[schema.MetadataStream] == "" || have.Metadata[schema.MetadataKind] == "" {
		add(Widened, unclaimed, "does not say which ingress it belongs to", "another ingress can take it for its own, and delete what is in it", claimFlags(want.Metadata))
		wider.Metadata = make(map[string]string)
		maps.Copy(wider.Metadata, have.Metadata)
		maps.Copy(wider.Metadata, want.Metadata)
	}

	// No maximum age is the widest. An age that was set by hand stays where
	// INGRESS_MAX_AGE is not set, for it may be there for privacy.
	longer := fmt.Sprintf("--max-age %s", want.MaxAge)
	switch {
	case want.MaxAge > 0 && have.MaxAge > 0 && have.MaxAge < want.MaxAge:
		add(Widened, "max_age", fmt.Sprintf("keeps events for %s, not for %s", have.MaxAge, want.MaxAge), "they go before INGRESS_MAX_AGE says", longer)
		wider.MaxAge = want.MaxAge
	case want.MaxAge > 0 && have.MaxAge != want.MaxAge:
		add(Kept, "max_age", fmt.Sprintf("keeps events longer than %s", want.MaxAge), "what INGRESS_MAX_AGE says does not shorten an age that is there", longer)
	}
	possible := window(want.Duplicates, wider.MaxAge)
	if have.Duplicates < possible {
		add(Widened, "window", fmt.Sprintf("has a duplicate window of %s, not of %s", have.Duplicates, possible),
			"beyond it, an event is known only while its first copy is in the stream", fmt.Sprintf("--dupe-window %s", possible))
		wider.Duplicates = possible
	}
	if possible < want.Duplicates {
		add(Kept, "window_limited", fmt.Sprintf("has a maximum age of %s, and so no longer duplicate window", wider.MaxAge),
			"an event that has grown too old is stored again if it is sent again", fmt.Sprintf("--max-age %[1]s --dupe-window %[1]s", want.Duplicates))
	}

	if have.DenyDelete {
		add(Kept, "deny_delete", "denies deletion, and that cannot be taken back", "an interview cannot be erased from it, nor the quarantine emptied", "")
		gaps[len(gaps)-1].Remedy = c.elsewhere()
	}
	if have.MaxMsgsPerSubject > 0 {
		add(Kept, "subject_limit", fmt.Sprintf("keeps %d messages of a subject", have.MaxMsgsPerSubject),
			"a tombstone pushes an erased event out before it is overwritten", "--max-msgs-per-subject=-1")
	}
	if len(have.Sources) > 0 {
		add(Kept, "sources", "takes messages from other streams", "no signature was verified for them, and a copy that comes this way is not refused", "--interactive  # remove sources")
	}
	return wider, gaps
}

// limited reports whether a stream can be full.
func limited(c jetstream.StreamConfig) bool { return c.MaxBytes > 0 || c.MaxMsgs > 0 }

// conflicts returns what only a person can settle.
func (c Config) conflicts(kind schema.Kind, have jetstream.StreamConfig) []Gap {
	var gaps []Gap
	stream := kind.Stream(c.Stream)
	refuse := func(there bool, name, problem, why, remedy string) {
		if there {
			gaps = append(gaps, Gap{name, problem, why, remedy, Refused})
		}
	}
	if err := kind.CheckOwner(c.Stream, have.Metadata); err != nil {
		refuse(true, "owner", err.Error(), "one of the two would delete what the other has acknowledged",
			fmt.Sprintf("export INGRESS_STREAM=%s_2 INGRESS_SUBJECT=%s-2  # a name of its own; or, if no other ingress uses this stream any more: %s",
				c.Stream, c.Subject, edit(stream, claimFlags(kind.Metadata(c.Stream)))))
	}
	elsewhere := c.elsewhere()
	refuse(have.Mirror != nil, "mirror", "is a mirror", "it cannot be written to", elsewhere)
	refuse(have.Sealed, "sealed", "is sealed", "it cannot be written to", elsewhere)
	refuse(have.Retention != jetstream.LimitsPolicy, "retention", fmt.Sprintf("has %s retention, not limits", have.Retention),
		"it deletes what was read: nothing can be replayed, and a resend is stored again", elsewhere)
	refuse(have.Storage != jetstream.FileStorage, "storage", "is stored in memory, not in a file", "a restart of the broker empties it", elsewhere)
	refuse(have.NoAck, "no_ack", "does not acknowledge messages (no_ack)", "nobody knows whether an event is stored", elsewhere)
	refuse(have.PersistMode == jetstream.AsyncPersistMode, "persist_mode", "acknowledges messages before they are on disk (persist_mode async)",
		"a power loss takes events that were acknowledged", elsewhere)
	refuse(have.SubjectTransform != nil, "transform", "transforms subjects", "a second copy cannot be told by its subject", elsewhere)
	refuse(have.DiscardNewPerSubject, "discard_new_per_subject", "has discard_new_per_subject", "it stalls streams that source from it", edit(stream, "--no-discard-per-subject"))
	refuse(have.Discard == jetstream.DiscardOld && limited(have), "discards_old", "has a limit and discards old messages when it is full",
		"events would be lost in silence", edit(stream, "--discard new"))
	return gaps
}

func edit(stream, flags string) string { return fmt.Sprintf("nats stream edit %s %s", stream, flags) }

// elsewhere is the remedy for a stream that cannot be mended.
func (c Config) elsewhere() string {
	return fmt.Sprintf("export INGRESS_STREAM=%s_2 INGRESS_SUBJECT=%s-2  # a new stream, or recreate this one", c.Stream, c.Subject)
}

// subjectFlags names all subjects: an edit replaces them.
func subjectFlags(have []string, want string) string {
	var flags string
	for _, subject := range have {
		flags += fmt.Sprintf("--subjects '%s' ", subject)
	}
	return flags + fmt.Sprintf("--subjects '%s'", want)
}

// claimFlags gives a stream its owner.
func claimFlags(metadata map[string]string) string {
	var flags []string
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		flags = append(flags, fmt.Sprintf("--metadata %s=%s", key, metadata[key]))
	}
	return strings.Join(flags, " ")
}

// conflictIn returns the first gap that is a conflict, as an error.
func conflictIn(stream string, gaps []Gap) error {
	for _, gap := range gaps {
		if gap.Weight == Refused {
			return &ConflictError{stream, fmt.Sprintf("%s: %s; %s", gap.Problem, gap.Why, gap.Remedy)}
		}
	}
	return nil
}

// window returns the longest duplicate window of at most want that a stream
// with the given maximum age may have; 0 keeps messages for ever.
func window(want, maxAge time.Duration) time.Duration {
	if maxAge > 0 && maxAge < want {
		return maxAge
	}
	return want
}
