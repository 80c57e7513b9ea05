package publish

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/schema"
)

// A Drift is a difference between a stream's configuration and the one that the
// promise needs or the settings ask for.
type Drift struct {
	Name    string // identifier, such as "storage"
	Problem string // a predicate of the stream, such as "is stored in memory"
	Why     string // why it matters
	Remedy  string // a command or settings to paste
	Action  Action
}

// Action is what a [Publisher] does about a [Drift].
type Action int

const (
	// Tolerate leaves the stream as it is, because an operator may have wanted that.
	Tolerate Action = iota
	// Repair updates the stream in [Open], which loses nothing.
	Repair
	// Reject publishes nothing to the stream; see [ConflictError].
	Reject
)

// unclaimed is the name of the only drift to repair that the promise does not depend
// on.
const unclaimed = "unclaimed"

// Inspect returns the drifts of a stream for a kind of message, those to reject
// first. A stream that Open has created has none. Of c it uses the fields that
// describe the streams.
func (c Config) Inspect(kind schema.Kind, have jetstream.StreamConfig) []Drift {
	_, drifts := c.inspect(kind, have)
	return drifts
}

// inspect also returns have with all repairs applied. They never reduce what an
// operator has configured.
func (c Config) inspect(kind schema.Kind, have jetstream.StreamConfig) (repaired jetstream.StreamConfig, drifts []Drift) {
	want := c.desired(kind)
	add := func(found bool, action Action, name, problem, why, remedy string) {
		if found {
			drifts = append(drifts, Drift{name, problem, why, remedy, action})
		}
	}
	edit := func(flags string) string { return c.edit(want.Name, flags) }
	limited := have.MaxBytes > 0 || have.MaxMsgs > 0 // it can become full

	// An operator must resolve the following. Most of it cannot be updated.
	names := fmt.Sprintf("export INGRESS_STREAM=%s_2 INGRESS_SUBJECT=%s-2", c.Stream, c.Subject)
	elsewhere := names + "  # a new stream, or recreate this one"
	if err := kind.CheckOwner(c.Stream, have.Metadata); err != nil {
		add(true, Reject, "owner", err.Error(), "each would delete messages that the other has acknowledged",
			names+"  # a separate name; or, if no other ingress uses this stream: "+edit(claimFlags(want.Metadata)))
	}
	add(have.Mirror != nil, Reject, "mirror", "is a mirror", "it cannot be written to", elsewhere)
	add(have.Sealed, Reject, "sealed", "is sealed", "it cannot be written to", elsewhere)
	add(have.Retention != want.Retention, Reject, "retention", fmt.Sprintf("has %s retention, not limits", have.Retention),
		"it deletes messages that were read: they cannot be replayed, and resends are stored again", elsewhere)
	add(have.Storage != want.Storage, Reject, "storage", "is stored in memory, not in a file", "a restart of the broker empties it", elsewhere)
	add(have.NoAck, Reject, "no_ack", "does not acknowledge messages (no_ack)", "there is no confirmation that an event is stored", elsewhere)
	add(have.PersistMode == jetstream.AsyncPersistMode, Reject, "persist_mode", "acknowledges messages before they are on disk (persist_mode async)",
		"a power loss can lose acknowledged events", elsewhere)
	add(have.SubjectTransform != nil, Reject, "transform", "transforms subjects", "a second copy cannot be recognized by its subject", elsewhere)
	add(have.DiscardNewPerSubject, Reject, "discard_new_per_subject", "has discard_new_per_subject", "streams that source from it stall", edit("--no-discard-per-subject"))
	addErasure := func(action Action) {
		add(have.DenyDelete, action, "deny_delete", "denies deletion, which cannot be undone",
			"interviews cannot be erased and quarantined webhooks cannot be removed", elsewhere)
		add(have.MaxMsgsPerSubject > 0, action, "subject_limit", fmt.Sprintf("keeps %d messages per subject", have.MaxMsgsPerSubject),
			"a tombstone displaces the event before it is overwritten", edit("--max-msgs-per-subject=-1"))
	}
	unerasable := c.Hub && (have.DenyDelete || have.MaxMsgsPerSubject == 1) // an erasure would hold up what is forwarded after it
	if unerasable {
		addErasure(Reject)
	}
	add(have.Discard != want.Discard && limited, Reject, "discards_old", "has a limit and discards old messages when it is full",
		"events would be lost silently", edit("--discard new"))

	repaired = have
	subject := want.Subjects[0]
	if !slices.ContainsFunc(have.Subjects, func(s string) bool { return covers(s, subject) }) {
		kept := slices.DeleteFunc(slices.Clone(have.Subjects), func(s string) bool { return covers(subject, s) }) // the subjects of a stream must not overlap
		repaired.Subjects = append(kept, subject)
		action, remedy := Repair, edit(subjectFlags(repaired.Subjects))
		if c.Hub {
			action, remedy = Reject, "export INGRESS_SUBJECT=…  # that of the other edges; or, if all of them have this one: "+remedy
		}
		add(true, action, "subjects", fmt.Sprintf("has the subjects %q, not %q", have.Subjects, subject),
			"events cannot be published to it; copies under other subjects are recognized only within the duplicate window", remedy)
	}
	add(have.Discard != want.Discard && !limited, Repair, "discard", "would discard old messages at a limit",
		"a limit that is set later would lose events silently", edit("--discard new"))
	repaired.Discard = want.Discard
	add(have.Replicas < want.Replicas, Repair, "replicas", fmt.Sprintf("has %d of %d replicas", have.Replicas, want.Replicas),
		"events are on fewer disks than "+c.replicasName()+" requires", edit(fmt.Sprintf("--replicas %d", want.Replicas)))
	repaired.Replicas = max(have.Replicas, want.Replicas)
	add(!have.AllowDirect, Repair, "direct_get", "does not allow direct get", "only its leader can look up messages", edit("--allow-direct"))
	repaired.AllowDirect = true
	add(!have.AllowAtomicPublish, Repair, "atomic_publish", "does not allow atomic batches", "every event needs its own commit", edit("--allow-batch"))
	repaired.AllowAtomicPublish = true
	add(have.Metadata[schema.MetadataStream] == "" || have.Metadata[schema.MetadataKind] == "", Repair, unclaimed,
		"does not record which ingress it belongs to", "another ingress can claim it and delete its messages", edit(claimFlags(want.Metadata)))
	repaired.Metadata = make(map[string]string)
	maps.Copy(repaired.Metadata, have.Metadata)
	maps.Copy(repaired.Metadata, want.Metadata)

	// An age that was set by hand stays if INGRESS_MAX_AGE is not set, because it may
	// be there for privacy.
	longer := edit(fmt.Sprintf("--max-age %s", want.MaxAge))
	switch {
	case c.Forwarded && have.MaxAge > 0:
		add(true, Repair, "max_age", fmt.Sprintf("discards messages after %s", have.MaxAge), "those that wait for the hub would be lost; the ingress removes what is older than INGRESS_MAX_AGE once the hub has it", longer)
		repaired.MaxAge = 0
	case want.MaxAge > 0 && have.MaxAge > 0 && have.MaxAge < want.MaxAge:
		add(true, Repair, "max_age", fmt.Sprintf("keeps events for %s, not for %s", have.MaxAge, want.MaxAge), "events expire earlier than INGRESS_MAX_AGE", longer)
		repaired.MaxAge = want.MaxAge
	case want.MaxAge > 0 && have.MaxAge != want.MaxAge:
		add(true, Tolerate, "max_age", fmt.Sprintf("keeps events longer than %s", want.MaxAge), "INGRESS_MAX_AGE does not shorten the age of an existing stream", longer)
	}
	possible := window(want.Duplicates, repaired.MaxAge)
	add(have.Duplicates < possible, Repair, "window", fmt.Sprintf("has a duplicate window of %s, not %s", have.Duplicates, possible),
		"after that, a resend is recognized only while the first copy is in the stream", edit(fmt.Sprintf("--dupe-window %s", possible)))
	repaired.Duplicates = max(have.Duplicates, possible)
	add(possible < want.Duplicates, Tolerate, "window_limited", fmt.Sprintf("has a maximum age of %s, which also limits the duplicate window", repaired.MaxAge),
		"a resend of an expired event is stored again", edit(fmt.Sprintf("--max-age %[1]s --dupe-window %[1]s", want.Duplicates)))

	if !unerasable {
		addErasure(Tolerate)
	}
	add(len(have.Sources) > 0, Tolerate, "sources", "takes messages from other streams",
		"their signatures were not verified, and copies are not rejected", edit("--interactive  # remove sources"))
	return repaired, drifts
}

// replicasName returns the setting that Replicas is from.
func (c Config) replicasName() string {
	if c.Hub {
		return "INGRESS_FORWARD_REPLICAS"
	}
	return "INGRESS_REPLICAS"
}

// edit returns the command that edits a stream.
func (c Config) edit(stream, flags string) string {
	return fmt.Sprintf("%s stream edit %s %s", cmp.Or(c.CLI, "nats"), stream, flags)
}

// covers reports whether every subject that matches b also matches a.
func covers(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i, token := range as {
		switch {
		case token == ">":
			return len(bs) > i
		case i == len(bs), bs[i] == ">", token != "*" && token != bs[i]:
			return false
		}
	}
	return len(as) == len(bs)
}

// subjectFlags returns flags with all subjects, because an edit replaces them.
func subjectFlags(subjects []string) string {
	return "--subjects '" + strings.Join(subjects, "' --subjects '") + "'"
}

// claimFlags returns flags that set the owner of a stream.
func claimFlags(metadata map[string]string) string {
	var flags []string
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		flags = append(flags, fmt.Sprintf("--metadata %s=%s", key, metadata[key]))
	}
	return strings.Join(flags, " ")
}

// conflictIn returns a [*ConflictError] for the first drift to reject, or nil.
func conflictIn(stream string, drifts []Drift) error {
	for _, d := range drifts {
		if d.Action == Reject {
			return &ConflictError{stream, fmt.Sprintf("%s: %s; %s", d.Problem, d.Why, d.Remedy)}
		}
	}
	return nil
}

// window returns the duplicate window for a stream: want, or maxAge if that is
// shorter. A maxAge of 0 is unlimited.
func window(want, maxAge time.Duration) time.Duration {
	if maxAge > 0 && maxAge < want {
		return maxAge
	}
	return want
}
