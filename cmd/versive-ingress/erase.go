package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

const outOfReach = `It does not reach the following; see to them yourself:
  - what consumers have made of the events: consumers that read the stream get
    the tombstones, others do not;
  - streams that mirror or source from these, and what was replayed to other
    subjects or endpoints;
  - backups, snapshots, and disk space that the file system has freed but not
    used again;
  - on a cluster, the nodes' replication logs, which keep the content for about
    three minutes more, and nodes that are away, until they are back;
  - Versive itself: ask there as well. A resend of an erased event is refused.
`

func eraseCommand() *cobra.Command {
	var (
		interview, study string
		yes, dryRun      bool
	)
	cmd := &cobra.Command{
		Use:   "erase (--interview ID | --study ID)",
		Short: "Remove an interview's stored copies for good",
		Long: `Remove every stored copy of an interview: its events, what the quarantine keeps
of it (whatever mentions the id, for its content was not understood), and the
dead letters of its events. Shows what it found and asks; --yes does not.

With --study, remove the events of a study that belong to no interview, and
nothing of its interviews.

A tombstone takes the place of each copy: the same subject, so the interview's
id stays, and no data. It keeps a resend from being stored again, and asks
consumers to erase what they have. Then the copy is overwritten and deleted.

On an embedded broker, erase ends when the overwriting is durable, power loss
included. For that it needs the ingress's INGRESS_DATA_DIR, on the same machine
and as the same user, or as root. It also finds what a power cut or a kill has
brought back from an earlier erasure; a restart of the ingress overwrites that.

The output says where that is not guaranteed:
  - an external broker, or more than one replica: each server overwrites its
    copy, but a power cut within the next seconds may undo that, unnoticed;
  - an encrypted store (jetstream { key }): copies are only deleted. Their content
    stays in block files, unreadable without the key, until the broker compacts
    them, if ever;
  - a compressed stream, or a data directory that erase cannot read: the output
    says what to do.

EXIT STATUS
  0  no copy is stored any more, even if there was none; the output says which,
     and what is not guaranteed
  1  something may be left; the error says what to do. Running erase again is
     always safe

` + outOfReach,
		Example: `  versive-ingress erase --interview 3fa85f64-5717-4562-b3fc-2c963f66afa6 --dry-run
  versive-ingress erase --interview 3fa85f64-5717-4562-b3fc-2c963f66afa6
  versive-ingress erase --study study_123`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id := interview + study; id == "" || len(id) > schema.MaxIDLen {
				return fmt.Errorf("--interview or --study: want an id of 1 to %d bytes", schema.MaxIDLen)
			}
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			c, err := broker.Dial(ctx, "erase")
			if err != nil {
				return err
			}
			defer c.Close()
			e := &erasure{Connection: c, interview: interview, study: study, eraser: publish.Eraser{JetStream: c.JetStream, Stream: c.Settings.Stream}}
			found, err := e.find(ctx)
			if err != nil {
				return err
			}
			if len(found) == 0 {
				fmt.Fprintf(out, "nothing is stored of %s%s\n", e, e.erasedBefore())
				if dryRun {
					return nil
				}
				return settle(ctx, e.Connection, out, e.overwritten)
			}
			fmt.Fprintf(out, "found of %s%s:\n", e, e.erasedBefore())
			if err := e.print(out, found); err != nil {
				return err
			}
			if dryRun {
				return nil
			}
			if !yes {
				if err := terminal.Confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Erase %s for good?", terminal.Plural(len(found), "message", "messages"))); err != nil {
					return err
				}
			}
			erased, err := e.run(ctx, found)
			fmt.Fprintf(out, "erased: %d\n", erased)
			if err == nil {
				err = settle(ctx, e.Connection, out, e.overwritten)
			}
			fmt.Fprintf(out, "\n%s", outOfReach)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&interview, "interview", "", "id of the interview to erase")
	flags.StringVar(&study, "study", "", "id of the study to erase, except its interviews")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&dryRun, "dry-run", false, "only show what would be erased")
	cmd.MarkFlagsOneRequired("interview", "study")
	cmd.MarkFlagsMutuallyExclusive("interview", "study")
	return cmd
}

// An erasure removes what is stored of one interview, or of one study except
// its interviews.
type erasure struct {
	*broker.Connection
	interview, study string // one of them is ""
	eraser           publish.Eraser

	ids        map[string]bool // svix-ids of the interview's events, erased ones included
	tombstones int             // of the interview, in the event stream
	// overwritten holds the sequences of what was erased, by this erasure and by
	// earlier ones. In the quarantine and the dead letters, nothing shows of which
	// interview that was, so these are all that were ever deleted there.
	overwritten map[schema.Kind][]uint64
}

// A match is a stored message that holds something of the interview.
type match struct {
	subscribe.Message // without its data
	kind              schema.Kind
	// later is the subject in the event stream under which a later schema would
	// store a quarantined webhook; "" if the webhook does not say enough.
	later string
}

// find looks through the three streams. It returns the events first, so that
// they are erased first: a consumer that dead-letters an event looks for the
// event's tombstone after it has stored the dead letter.
//
// The events are read before the others, for their ids, and once more after
// them: a requeue stores an event before it deletes the quarantined webhook, so
// that one of the two is there at every time, and the event is at the end.
func (e *erasure) find(ctx context.Context) ([]match, error) {
	e.ids, e.overwritten = make(map[string]bool), make(map[schema.Kind][]uint64)
	var events, others []match
	inEvents := subscribe.Selection{Kind: schema.KindEvent, Subject: e.filter().Subject("*"), HeadersOnly: true}
	for _, selection := range [...]subscribe.Selection{
		inEvents,
		{Kind: schema.KindQuarantine, Subject: broker.AnySubject},
		{Kind: schema.KindDead, Subject: broker.AnySubject},
		inEvents,
	} {
		var found []match
		var last uint64  // sequence that was read
		e.tombstones = 0 // counted in the events, which are the last
		for m, err := range e.Source.Range(ctx, selection) {
			if errors.Is(err, jetstream.ErrStreamNotFound) && selection.Kind == schema.KindDead {
				break // no consumer has given up on anything yet
			}
			if err != nil {
				return nil, err
			}
			if t, ok := e.inspect(selection.Kind, m); ok {
				t.Data = nil
				found = append(found, t)
			}
			if m.Erased() {
				// The broker took the tombstone on the condition that this was the copy's.
				if copied, err := strconv.ParseUint(m.Header.Get(jetstream.ExpectedLastSubjSeqHeader), 10, 64); err == nil && copied > 0 {
					e.overwritten[selection.Kind] = append(e.overwritten[selection.Kind], copied)
				}
			}
			if selection.Kind != schema.KindEvent && last > 0 {
				for missing := last + 1; missing < m.Sequence; missing++ {
					e.overwritten[selection.Kind] = append(e.overwritten[selection.Kind], missing)
				}
			}
			last = m.Sequence
		}
		if selection.Kind == schema.KindEvent {
			events = found
		} else {
			others = append(others, found...)
		}
	}
	return append(events, others...), nil
}

// inspect reports whether a message holds something of the interview.
func (e *erasure) inspect(kind schema.Kind, m subscribe.Message) (t match, ok bool) {
	t = match{Message: m, kind: kind}
	switch {
	case kind == schema.KindEvent:
		e.ids[m.ID] = true
		if m.Erased() {
			e.tombstones++
		}
		return t, !m.Erased()
	case m.Erased():
		return t, false
	case kind == schema.KindQuarantine:
		s, ok := schema.GuessSubject(m.ID, m.Data)
		switch {
		case ok && e.owns(s):
			s.Prefix, _, _ = strings.Cut(m.Subject, ".")
			s.Prefix = strings.TrimSuffix(s.Prefix, schema.KindQuarantine.Prefix(""))
			t.later = s.String()
		case ok && e.study != "":
			return t, false // of an interview: its study is not the reason to erase it
		}
		return t, e.ids[m.ID] || e.mentioned(m)
	default:
		// A dead letter says which interview it is of, unless it was no event.
		if s, err := schema.ParseSubject(m.Header.Get(schema.HeaderDeadSubject)); err == nil {
			return t, e.owns(s)
		}
		return t, e.ids[m.ID] || e.mentioned(m)
	}
}

// String names what is erased, for messages.
func (e *erasure) String() string {
	if e.study != "" {
		return "study " + e.study
	}
	return "interview " + e.interview
}

// filter selects the events to erase.
func (e *erasure) filter() schema.Filter {
	return schema.Filter{StudyID: e.study, InterviewID: e.interview, NoInterview: e.study != ""}
}

// owns reports whether filter selects the event with a subject.
func (e *erasure) owns(s schema.Subject) bool {
	return s.InterviewID == e.interview && (e.study == "" || s.StudyID == e.study)
}

func (e *erasure) mentioned(m subscribe.Message) bool {
	for _, values := range m.Header {
		for _, value := range values {
			if mentions([]byte(value), e.interview+e.study) {
				return true
			}
		}
	}
	return mentions(m.Data, e.interview+e.study)
}

// erasedBefore describes what earlier erasures have done.
func (e *erasure) erasedBefore() string {
	if e.tombstones == 0 {
		return ""
	}
	return fmt.Sprintf(" (erased before: %s)", terminal.Plural(e.tombstones, "event", "events"))
}

func (e *erasure) print(w io.Writer, found []match) error {
	table := terminal.NewTable(w)
	for _, t := range found {
		fmt.Fprintf(table, "  %s\t%d\t%s\t%s\t%s\n", t.kind.Stream(e.Settings.Stream), t.Sequence, t.Time.Format(time.RFC3339), t.ID, terminal.Bytes(t.Size))
	}
	return table.Flush()
}

// passes is how often it looks for what came, or was made a dead letter, while
// it erased.
const passes = 3

// run erases what was found, and looks again until nothing is left.
func (e *erasure) run(ctx context.Context, found []match) (erased int, err error) {
	for pass := 0; len(found) > 0; pass++ {
		if pass == passes {
			return erased, fmt.Errorf("%s keeps coming: %s after %d passes; run it again", e, terminal.Plural(len(found), "message", "messages"), passes)
		}
		var failed []error
		for _, t := range found {
			if err := e.erase(ctx, t); err != nil {
				failed = append(failed, err)
				continue
			}
			erased++
		}
		if len(failed) > 0 {
			return erased, fmt.Errorf("%d of %d messages may be left: %w", len(failed), len(found), errors.Join(failed...))
		}
		if found, err = e.find(ctx); err != nil {
			return erased, fmt.Errorf("looking whether something is left: %w", err)
		}
	}
	return erased, nil
}

func (e *erasure) erase(ctx context.Context, t match) error {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	if t.later != "" {
		if err := e.eraser.PutTombstone(ctx, schema.KindEvent, t.later); err != nil {
			return err
		}
	}
	return e.eraser.Erase(ctx, broker.CopyOf(t.kind, t.Message))
}
