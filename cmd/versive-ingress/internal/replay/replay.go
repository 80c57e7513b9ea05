package replay

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/subscribe"
)

// A replay is the state of the command.
type replay struct {
	conn *broker.Connection
	sel  subscribe.Selection // the whole selection, delivered events included
	file string              // for the checkpoint; "" is none
	checkpoint

	target   target
	limiter  *rate.Limiter // nil is no limit
	progress *terminal.Progress
	saved    time.Time
}

// Run delivers what the options select, or what is left of it, to the target. out is
// the standard output; progress and notes are written to log.
func Run(ctx context.Context, o Options, out, log io.Writer) error {
	sel, err := o.Selection.resolve()
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	// Not closed by Ctrl-C: what was sent is still confirmed then.
	conn, err := broker.Dial(context.WithoutCancel(ctx), "replay")
	if err != nil {
		return err
	}
	defer conn.Close()

	r := &replay{conn: conn, sel: sel, file: o.Checkpoint}
	if err := r.begin(ctx, o); err != nil {
		return err
	}
	if o.Quiet {
		log = io.Discard
	}
	if o.DryRun {
		if err := r.checkTarget(ctx, o, log); err != nil {
			return err
		}
		return r.dryRun(ctx, out, log)
	}
	lines := o.ToSubject == "" && o.ToURL == "" && terminal.IsTerminal(out) // the bar would stand among them
	r.progress = terminal.NewProgress(log, terminal.IsTerminal(log) && !lines)
	if r.Finished {
		fmt.Fprintf(log, "finished before: %v; to deliver it again, remove %s\n", r.Done, r.file)
		return nil
	}
	if r.target, err = r.open(ctx, o, out); err != nil {
		return err
	}
	defer r.target.close()
	if o.Rate > 0 {
		r.limiter = rate.NewLimiter(rate.Limit(o.Rate), 1)
	}

	start, before := time.Now(), r.Done.Events
	err = r.run(ctx)
	r.progress.Clear()
	if err != nil {
		return err
	}
	took := time.Since(start)
	fmt.Fprintf(log, "replayed %v, to %s in %v (%.0f/s)\n", r.Done, r.Spec.Target, took.Round(time.Millisecond), float64(r.Done.Events-before)/took.Seconds())
	r.explain(ctx, r.Done, log)
	if o.ToURL != "" && r.Done.Erasures > 0 {
		fmt.Fprintf(log, "not sent: %s, for which there is no webhook; tell the endpoint's owner\n", erasures(r.Done.Erasures))
	}
	if o.KeepID && r.Done.Duplicates > 0 {
		fmt.Fprintf(log, "the target had %d of them before\n", r.Done.Duplicates)
	}
	return nil
}

// begin determines the bounds of the replay, or resumes from the checkpoint.
func (r *replay) begin(ctx context.Context, o Options) error {
	name := r.conn.Settings.Stream
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	stream, err := publish.OpenStream(ctx, r.conn.JetStream, name)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	r.checkpoint = checkpoint{
		Spec:  spec{Stream: name, Created: info.Created, Selection: o.Selection, Target: o.target()},
		Run:   rand.Text(),
		Since: r.sel.Since,
		Until: r.sel.Until,
		Last:  info.State.LastSeq,
	}
	if r.sel.Last > 0 {
		r.Last = min(r.Last, r.sel.Last)
	}
	if r.file != "" {
		if err := r.resume(r.file); err != nil {
			return err
		}
	}
	r.sel.Since, r.sel.Until, r.sel.Last = r.Since, r.Until, r.Last
	return nil
}

func (r *replay) open(ctx context.Context, o Options, out io.Writer) (target, error) {
	switch {
	case o.ToSubject != "":
		streams, domain, err := boundStreams(ctx, r.conn, o.ToSubject)
		if err != nil {
			return nil, err
		}
		if len(streams) == 0 {
			r.progress.Note("no stream listens on %s: the events reach current subscribers only", o.ToSubject)
		}
		t := &natsTarget{endpoint: broker.Endpoint(r.conn.Settings), subject: o.ToSubject, streams: streams, domain: domain, delivered: r.delivered, note: r.progress.Note}
		if !o.KeepID {
			t.suffix = ":replay:" + r.Run
		}
		return t, t.connect()
	case o.ToURL != "":
		s, err := sender.New(o.ToURL, o.Secret)
		return &urlTarget{sender: s, delivered: r.delivered, note: r.progress.Note}, err
	case r.Done.Sequence > 0:
		if _, err := io.WriteString(out, "\n"); err != nil { // after a line that was cut short, if the process was killed
			return nil, err
		}
	}
	return &lineTarget{out: out, delivered: r.delivered}, nil
}

func (r *replay) delivered(m subscribe.Message, duplicate bool) {
	r.Done.add(m, duplicate)
	r.progress.Add()
}

const (
	// saveEvery is how often the checkpoint is written.
	saveEvery = time.Second
	// drainTimeout is how long an interrupted replay waits for confirmations.
	drainTimeout = 2 * time.Second
)

// run delivers what is left. However it ends, the checkpoint then holds what
// the target has confirmed.
func (r *replay) run(ctx context.Context) error {
	if err := r.save(); err != nil { // so that Run and Last stay the same after a crash
		return err
	}
	err := r.deliver(ctx)
	if err == nil {
		err = r.target.flush(ctx)
	}
	if err != nil {
		draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		_ = r.target.flush(draining) // what was sent may still be confirmed
	}
	r.Finished = err == nil
	if saved := r.save(); err == nil {
		err = saved
	}
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*subscribe.UnreadableError](err); ok { // nothing else is left
		return fmt.Errorf("delivered %v, and all but these: %w", r.Done, err)
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	foreign, isForeign := errors.AsType[*notEvent](err) // it is one at each attempt
	if r.Done.Sequence == 0 && !isForeign {
		return fmt.Errorf("nothing was delivered: %w", err)
	}
	next := "the same command"
	switch {
	case isForeign:
		next += fmt.Sprintf(" without --checkpoint and with --first %d in place of --since or --first, which passes over it", foreign.sequence+1)
	case r.file == "":
		next += fmt.Sprintf(" with --first %d in place of --since or --first", r.Done.Sequence+1)
	}
	return fmt.Errorf("delivered %v: %w; to resume: %s", r.Done, err, next)
}

// left returns the part of the selection that is not delivered yet.
func (r *replay) left() subscribe.Selection {
	sel := r.sel
	if r.Done.Sequence > 0 {
		sel.First = r.Done.Sequence + 1
	}
	return sel
}

func (r *replay) deliver(ctx context.Context) error {
	earlier := r.sel
	earlier.Last, earlier.HeadersOnly = r.Done.Sequence, true
	for m, err := range r.conn.Source.Range(ctx, r.left()) {
		if err != nil {
			return err
		}
		r.progress.Expect(m.Pending + 1)
		if err := r.await(ctx); err != nil {
			return err
		}
		if err := r.target.deliver(ctx, m); err != nil {
			return err
		}
	}
	if earlier.Last == 0 {
		return nil
	}
	// A range reports at its end what it could not read. An earlier process may have
	// been interrupted before that, and what it has reported is still not delivered.
	for _, err := range r.conn.Source.Range(ctx, earlier) {
		if err != nil {
			return err
		}
	}
	return nil
}

// await waits for the turn of the next event. If the checkpoint would by then be
// older than saveEvery, it is written before.
func (r *replay) await(ctx context.Context) error {
	wait := time.Duration(0)
	if r.limiter != nil {
		wait = r.limiter.Reserve().Delay()
	}
	if time.Since(r.saved)+wait > saveEvery {
		if err := r.target.flush(ctx); err != nil {
			return err
		}
		if err := r.save(); err != nil {
			return err
		}
	}
	return sleep(ctx, wait)
}

// save writes the checkpoint, if there is to be one.
func (r *replay) save() error {
	r.saved = time.Now()
	if r.file == "" {
		return nil
	}
	return r.write(r.file)
}

// checkTarget checks for a dry run that events could be delivered, and delivers none.
func (r *replay) checkTarget(ctx context.Context, o Options, log io.Writer) error {
	if o.ToSubject == "" && o.ToURL == "" {
		return nil
	}
	r.progress = terminal.NewProgress(log, false)
	target, err := r.open(ctx, o, nil)
	if err != nil {
		return err
	}
	defer target.close()
	if o.ToURL == "" {
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.ToURL, nil)
	if err != nil {
		return err
	}
	response, err := sender.Client.Do(request) // any answer shows that the endpoint is there
	if err != nil {
		return fmt.Errorf("%s: %w", terminal.URL(o.ToURL), withoutAnswer(err))
	}
	return response.Body.Close()
}

// dryRun reads all headers and no data.
func (r *replay) dryRun(ctx context.Context, out, log io.Writer) error {
	var found tally
	var first, last time.Time
	sel := r.left()
	sel.HeadersOnly = true
	for m, err := range r.conn.Source.Range(ctx, sel) {
		if err != nil {
			return err
		}
		found.add(m, false)
		last = m.Time
		if first.IsZero() {
			first = m.Time
		}
	}
	fmt.Fprintf(out, "would replay %v, to %s\n", found, r.Spec.Target)
	r.explain(ctx, found, log)
	if found.First > 0 {
		fmt.Fprintf(out, "stored from %s to %s\n", first.Format(time.RFC3339Nano), last.Format(time.RFC3339Nano))
	}
	return nil
}

// explain writes to log why nothing may have been found by an id.
func (r *replay) explain(ctx context.Context, found tally, log io.Writer) {
	if f := r.sel.Filter; found.First == 0 && f.StudyID+f.InterviewID != "" {
		fmt.Fprintln(log, cmp.Or(r.conn.OtherCase(ctx, f), broker.SeeFind))
	}
}
