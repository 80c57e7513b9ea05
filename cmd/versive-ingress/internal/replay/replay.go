package replay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/time/rate"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/subscribe"
)

// A replay is the state of the command.
type replay struct {
	conn *broker.Connection
	sel  subscribe.Selection // what is left
	done subscribe.Selection // what earlier processes have delivered; see deliver
	file string              // for the checkpoint; "" is none
	checkpoint

	target   target
	limiter  *rate.Limiter // nil is no limit
	progress *terminal.Progress
	saved    time.Time
}

// Run delivers what sel selects, or what is left of it, to the target. out is
// the standard output; progress and notes are written to log.
func Run(ctx context.Context, o Options, sel subscribe.Selection, out, log io.Writer) error {
	// Not closed by Ctrl-C: what was sent is still confirmed then.
	conn, err := broker.Dial(context.WithoutCancel(ctx), "replay")
	if err != nil {
		return err
	}
	defer conn.Close()

	r := &replay{conn: conn, file: o.Checkpoint}
	if err := r.begin(ctx, sel, o); err != nil {
		return err
	}
	if o.DryRun {
		return r.dryRun(ctx, out)
	}
	if r.Finished {
		if !o.Quiet {
			fmt.Fprintf(log, "finished before: %v; to deliver it again, remove %s\n", r.Done, r.file)
		}
		return nil
	}
	if !o.Quiet {
		lines := o.ToSubject == "" && o.ToURL == "" && terminal.IsTerminal(out) // the bar would stand among them
		r.progress = terminal.NewProgress(log, terminal.IsTerminal(log) && !lines)
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
	if !o.Quiet {
		took := time.Since(start)
		fmt.Fprintf(log, "replayed %v, to %s in %v (%.0f/s)\n", r.Done, r.Of.Target, took.Round(time.Millisecond), float64(r.Done.Events-before)/took.Seconds())
		if o.ToURL != "" && r.Done.Erasures > 0 {
			fmt.Fprintf(log, "not sent: the %d erasures, for which there is no webhook; tell the endpoint's owner\n", r.Done.Erasures)
		}
		if o.KeepID && r.Done.Duplicates > 0 {
			fmt.Fprintf(log, "the target had %d of them before\n", r.Done.Duplicates)
		}
	}
	return nil
}

// begin fixes what is replayed, or takes up where the checkpoint is.
func (r *replay) begin(ctx context.Context, sel subscribe.Selection, o Options) error {
	name := r.conn.Settings.Stream
	asking, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	stream, err := r.conn.JetStream.Stream(asking, name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	info := stream.CachedInfo()
	of := assignment{Stream: name, Created: info.Created, Selection: o.Selection, Target: o.target()}
	r.checkpoint = checkpoint{Of: of, Run: rand.Text(), Since: sel.Since, Until: sel.Until, Last: info.State.LastSeq}
	if sel.Last > 0 {
		r.Last = min(r.Last, sel.Last)
	}
	r.sel = sel
	if r.file != "" {
		earlier, err := readCheckpoint(r.file, of)
		if err != nil {
			return err
		}
		if earlier != nil {
			r.checkpoint = *earlier
		}
	}
	r.sel.Since, r.sel.Until, r.sel.Last = r.Since, r.Until, r.Last
	if r.Done.Sequence > 0 {
		r.done = r.sel
		r.done.Last, r.done.HeadersOnly = r.Done.Sequence, true
		r.sel.First = r.Done.Sequence + 1
	}
	return nil
}

// open opens the target.
func (r *replay) open(ctx context.Context, o Options, out io.Writer) (target, error) {
	switch {
	case o.ToSubject != "":
		streams, domain, err := listeners(ctx, r.conn, o.ToSubject)
		if err != nil {
			return nil, err
		}
		if len(streams) == 0 {
			r.progress.Note("no stream listens on %s: the events reach who is subscribed now", o.ToSubject)
		}
		t := &subjectTarget{settings: r.conn.Settings, subject: o.ToSubject, streams: streams, domain: domain, confirm: r.confirm, note: r.progress.Note}
		if !o.KeepID {
			t.suffix = ":replay:" + r.Run
		}
		return t, t.connect()
	case o.ToURL != "":
		s, err := sender.New(o.ToURL, o.Secret)
		return &urlTarget{sender: s, confirm: r.confirm, note: r.progress.Note}, err
	default:
		t := &lineTarget{out: out, confirm: r.confirm}
		if r.Done.Sequence > 0 {
			t.buffer = append(t.buffer, '\n') // behind a line that was cut short, if the process was killed
		}
		return t, nil
	}
}

func (r *replay) confirm(receipt receipt) {
	r.Done.add(receipt)
	r.progress.Add()
}

const (
	// saveEvery is how often the checkpoint is written.
	saveEvery = time.Second
	// lastWords is how long an interrupted replay waits for confirmations.
	lastWords = 2 * time.Second
	// shortWait is too short a wait for the rate's sake to hand over first what
	// is buffered.
	shortWait = 10 * time.Millisecond
)

// run delivers what is left. However it ends, the checkpoint then holds what
// the target has confirmed.
func (r *replay) run(ctx context.Context) error {
	if err := r.save(); err != nil { // its run and its end stay, even if nothing else is written
		return err
	}
	err := r.deliver(ctx)
	if err == nil {
		err = r.target.flush(ctx)
	}
	if err != nil {
		flushing, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		_ = r.target.flush(flushing) // what was sent may still be confirmed
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
	goOn := "the same command"
	if r.file == "" {
		goOn = fmt.Sprintf("the same command with --first %d in place of --since or --first", r.Done.Sequence+1)
	}
	if r.Done.Sequence == 0 {
		return fmt.Errorf("nothing was delivered: %w", err)
	}
	return fmt.Errorf("delivered %v: %w; to go on: %s", r.Done, err, goOn)
}

func (r *replay) deliver(ctx context.Context) error {
	for m, err := range r.conn.Source.Range(ctx, r.sel) {
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
		if err := r.saveIfDue(ctx); err != nil {
			return err
		}
	}
	if r.done.Last == 0 {
		return nil
	}
	// A range reports at its end what it could not read. That of an earlier process
	// did not come to its end, or what it reported must not be forgotten.
	for _, err := range r.conn.Source.Range(ctx, r.done) {
		if err != nil {
			return err
		}
	}
	return nil
}

// saveIfDue writes the checkpoint, if there is to be one and the last is old.
func (r *replay) saveIfDue(ctx context.Context) error {
	if r.file == "" || time.Since(r.saved) < saveEvery {
		return nil
	}
	if err := r.target.flush(ctx); err != nil {
		return err
	}
	return r.save()
}

// await waits for the turn of the next event.
func (r *replay) await(ctx context.Context) error {
	if r.limiter == nil {
		return nil
	}
	wait := r.limiter.Reserve().Delay()
	if wait > shortWait {
		if err := r.target.flush(ctx); err != nil {
			return err
		}
		if err := r.saveIfDue(ctx); err != nil { // it may be long until the next one
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

// dryRun reads all headers and no data.
func (r *replay) dryRun(ctx context.Context, out io.Writer) error {
	var found tally
	var first, last time.Time
	r.sel.HeadersOnly = true
	for m, err := range r.conn.Source.Range(ctx, r.sel) {
		if err != nil {
			return err
		}
		found.add(receiptOf(m))
		last = m.Time
		if first.IsZero() {
			first = m.Time
		}
	}
	fmt.Fprintf(out, "would replay %v, to %s\n", found, r.Of.Target)
	if found.First > 0 {
		fmt.Fprintf(out, "stored from %s to %s\n", first.Format(time.RFC3339Nano), last.Format(time.RFC3339Nano))
	}
	return nil
}
