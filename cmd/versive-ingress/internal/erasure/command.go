package erasure

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/schema"
)

// OutOfReach lists for the operator where an erasure leaves content.
const OutOfReach = `An erasure does not reach:
  - what consumers have derived from the events: consumers that read the stream
    receive the tombstones, others do not;
  - streams that mirror or source from these, and what was replayed to other
    subjects or endpoints;
  - events that wait at an edge that is cut off: repeat the erasure afterwards;
  - backups, snapshots, and disk space that the file system has freed but not
    reused;
  - on a cluster, the replication logs of the nodes, which keep the content for
    about three more minutes, and nodes that are away: when they are back they
    delete, but may not overwrite. An ingress looks for that after its start, and
    overwrites at the next; give an external server an empty store;
  - Versive itself: request the erasure there as well. A resend of an erased
    event is not stored.
`

// Options are what Run erases, and how.
type Options struct {
	Interviews, Studies []string
	FromFile            string // file of interview ids, one a line; "-" is In, "" is none

	DryRun bool   // only print what would be erased
	Yes    bool   // do not ask for confirmation
	Reason string // for the record
	Record string // file to append the record to; "" is none
	JSON   bool   // write the record to Out, and everything else to Notes

	In         io.Reader
	Out, Notes io.Writer
}

// targets returns what to erase.
func (o Options) targets() (targets []Target, err error) {
	for _, id := range o.Interviews {
		targets = append(targets, Target{Interview: strings.TrimSpace(id)})
	}
	for _, id := range o.Studies {
		targets = append(targets, Target{Study: strings.TrimSpace(id)})
	}
	if o.FromFile != "" {
		in := o.In
		if o.FromFile != "-" {
			file, err := os.Open(o.FromFile)
			if err != nil {
				return nil, fmt.Errorf("--from-file: %w", err)
			}
			defer file.Close()
			in = file
		}
		for id, err := range terminal.ReadIDs(in, schema.MaxIDLen) {
			if err == nil && !strings.ContainsAny(id, "0123456789") { // it may be in every quarantined webhook
				err = fmt.Errorf("%q has no digit, and may be the title of a column; remove the line, or erase an interview of that id by --interview", id)
			}
			if err != nil {
				return nil, fmt.Errorf("--from-file %s: %w", o.FromFile, err)
			}
			targets = append(targets, Target{Interview: id})
		}
	}
	for _, t := range targets {
		if id := t.Interview + t.Study; id == "" || len(id) > schema.MaxIDLen {
			return nil, fmt.Errorf("%q: want ids of 1 to %d bytes", id, schema.MaxIDLen)
		}
	}
	if len(targets) == 0 {
		return nil, errors.New("--from-file: there is no id")
	}
	return targets, nil
}

// Run finds what is stored of the targets, asks for confirmation, erases it, and records
// that.
func Run(ctx context.Context, o Options) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	file, lines, text := io.Discard, io.Discard, o.Out
	if o.JSON {
		lines, text = o.Out, o.Notes
	}
	if o.Record != "" {
		f, err := os.OpenFile(o.Record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("--record: %w", err)
		}
		defer f.Close()
		file = synced{f}
	}
	c, err := broker.Dial(ctx, "erase")
	if err != nil {
		return err
	}
	defer c.Close()
	e := New(c, targets...)
	found, err := e.Find(ctx)
	if err != nil {
		return err
	}
	if err := e.Print(ctx, text, found, o.DryRun); err != nil || o.DryRun {
		return errors.Join(err, e.Unreadable())
	}
	for kind := range schema.Kinds {
		if slices.ContainsFunc(found, func(m Match) bool { return m.kind == kind }) {
			if err := c.CheckDelete(ctx, kind); err != nil {
				return err
			}
		}
	}
	if len(found) > 0 && !o.Yes {
		if err := terminal.Confirm(ctx, o.In, o.Notes, fmt.Sprintf("Erase %s permanently?", terminal.Plural(len(found), "message", "messages"))); err != nil {
			return err
		}
	}
	// An erasure cannot be undone, so who has begun it is recorded before, even if it is killed or the disk is full then.
	if err := e.record(file, o.Reason, outcome{pending: true}); err != nil {
		return fmt.Errorf("nothing was erased: --record: %w", err)
	}
	progress := terminal.NewProgress(o.Notes, terminal.IsTerminal(o.Notes))
	progress.Expect(uint64(len(found)))
	err = e.Run(ctx, found, progress.Add)
	progress.Clear()
	if len(found) > 0 {
		fmt.Fprintf(text, "erased: %d\n", e.erased())
	}
	var end outcome
	if err == nil {
		end.Verified, err = Settle(ctx, c, text, e.overwritten)
	}
	err = errors.Join(err, e.Unreadable())
	end.Complete = err == nil
	if failed := e.record(io.MultiWriter(file, lines), o.Reason, end); failed != nil {
		err = errors.Join(err, fmt.Errorf("writing the record: %w", failed))
	}
	fmt.Fprintf(text, "\n%s", OutOfReach)
	return err
}

// synced is a file opened for appending whose writes are durable, or leave nothing.
type synced struct{ *os.File }

func (s synced) Write(text []byte) (int, error) {
	n, err := s.File.Write(text)
	if err == nil {
		return n, s.Sync()
	}
	if end, failed := s.Seek(0, io.SeekEnd); failed == nil {
		_ = s.Truncate(end - int64(n)) // a part of a line would make the next one unreadable
	}
	return 0, err
}

// An outcome is that of the whole command. Each line of the record contains it.
type outcome struct {
	Complete bool `json:"complete"`
	Verified bool `json:"verified"`
	pending  bool // the erasure has not begun
}

// record writes a line of JSON for each target, or only for each that has matches if the
// erasure has not begun. docs/commands.md describes the line.
func (e *Erasure) record(w io.Writer, reason string, end outcome) error {
	now, name := time.Now().UTC(), os.Getenv("SUDO_USER")
	if u, err := user.Current(); err == nil {
		name = cmp.Or(name, u.Username)
	}
	var lines bytes.Buffer
	for i, t := range e.targets {
		if end.pending && e.counts[i].Left == 0 {
			continue
		}
		err := terminal.WriteJSON(&lines, struct {
			Time      time.Time `json:"time"`
			User      string    `json:"user"`
			Reason    string    `json:"reason"`
			Interview string    `json:"interview,omitzero"`
			Study     string    `json:"study,omitzero"`
			Counts
			outcome
		}{now, cmp.Or(name, fmt.Sprint("uid ", os.Getuid())), reason, t.Interview, t.Study, e.counts[i], end})
		if err != nil {
			return err
		}
	}
	_, err := w.Write(lines.Bytes())
	return err
}
