package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	_ "github.com/ncruces/go-sqlite3/driver"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

var deadLetters = flag.Int("deadletters", 60, "TestRequeueKilled requeues so many dead letters")

// transactionalMain is a service that does its work and keeps the id of the event in one
// transaction, as docs/exactly-once.md has it. It refuses every event, or fails, and kills
// itself, now and then.
func transactionalMain() {
	url, durable, file, refuse := os.Args[1], os.Args[2], os.Args[3], os.Args[4] == "refuse"
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := func() error {
		db, err := openHandled(file)
		if err != nil {
			return err
		}
		defer db.Close()
		nc, err := nats.Connect(url, nats.Timeout(embeddedtest.Timeout), nats.MaxReconnects(-1))
		if err != nil {
			return err
		}
		defer nc.Close()
		js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second))
		if err != nil {
			return err
		}
		return subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
			Durable: durable, AckWait: 400 * time.Millisecond, Concurrency: 4, Backoff: []time.Duration{10 * time.Millisecond},
			Event: func(ctx context.Context, event schema.Event, m subscribe.Message) error {
				if _, err := db.ExecContext(ctx, `INSERT INTO calls VALUES (?)`, event.ID); err != nil {
					return err
				}
				if refuse {
					return subscribe.ErrPermanent
				}
				if rand.IntN(20) == 0 {
					return errors.New("not now")
				}
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer tx.Rollback()
				result, err := tx.ExecContext(ctx, `INSERT INTO handled VALUES (?) ON CONFLICT DO NOTHING`, event.ID)
				if err != nil {
					return err
				}
				if n, err := result.RowsAffected(); n == 0 || err != nil {
					return err
				}
				if _, err = tx.ExecContext(ctx, `INSERT INTO work VALUES (?, ?, ?)`, event.ID, m.Sequence, m.Subject); err != nil {
					return err
				}
				err = tx.Commit()
				if rand.IntN(30) == 0 {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}
				return err
			},
			Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
		})
	}()
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, durable, err)
		os.Exit(1)
	}
}

func openHandled(file string) (*sql.DB, error) {
	db, err := sql.Open("sqlite3", "file:"+file+"?_pragma=busy_timeout(20000)&_pragma=synchronous(off)&_txlock=immediate")
	if err == nil {
		_, err = db.Exec(`CREATE TABLE IF NOT EXISTS handled (id TEXT PRIMARY KEY);
			CREATE TABLE IF NOT EXISTS calls (id TEXT);
			CREATE TABLE IF NOT EXISTS work (id TEXT, sequence INTEGER, subject TEXT)`)
	}
	return db, err
}

// Dead letters are requeued by commands that are killed at random, while the processes of
// their consumer are killed as well. The consumer does the work of each exactly once, and
// the other consumers are not called.
func TestRequeueKilled(t *testing.T) {
	t.Parallel()
	skipProcesses(t)
	n, dir := *deadLetters, t.TempDir()
	timeout := embeddedtest.Timeout + time.Duration(n)*100*time.Millisecond
	broker := embeddedtest.StartBroker(t, embedded.Config{Listen: "127.0.0.1:0"})
	fill(t, broker.URL(), 1, n)
	js := embeddedtest.Connect(t, broker.URL())
	file := func(durable string) string { return filepath.Join(dir, durable) }
	consumer := func(durable, mode string) *exec.Cmd {
		cmd := exec.Command("transactional", broker.URL(), durable, file(durable), mode)
		cmd.Stderr = os.Stderr
		startProcess(t, cmd)
		return cmd
	}
	count := func(durable, query string) (count int) {
		db, err := openHandled(file(durable))
		if err == nil {
			defer db.Close()
			err = db.QueryRow(query).Scan(&count)
		}
		if err != nil {
			t.Fatal(err)
		}
		return count
	}
	await := func(what string, done func() bool) {
		for deadline := time.Now().Add(timeout); !done(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not within %v: %s", timeout, what)
			}
		}
	}
	pending := func(stream, durable string) bool {
		c, err := js.Consumer(t.Context(), stream, durable)
		return err != nil || c.CachedInfo().NumPending > 0 || c.CachedInfo().NumAckPending > 0
	}

	// Everything is given up by two consumers.
	for _, durable := range []string{"reports", "billing"} {
		cmd := consumer(durable, "refuse")
		await(durable+" gives up", func() bool { return !pending("VERSIVE", durable) })
		terminate(t, cmd)
	}
	// All consumers run, those of the dead letters too; reports in two processes.
	consumer("billing", "refuse")
	var killers, killed sync.WaitGroup
	var kills, requeues atomic.Int64
	finish := make(chan struct{})
	for range 2 {
		killers.Go(func() {
			for {
				cmd := exec.Command("transactional", broker.URL(), "reports", file("reports"), "handle")
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				killed.Go(func() { _ = cmd.Wait() })
				select {
				case <-finish:
					_ = cmd.Process.Kill()
					return
				case <-time.After(150*time.Millisecond + rand.N(700*time.Millisecond) + time.Duration(kills.Load())*10*time.Millisecond): // a busy machine needs longer
					_ = cmd.Process.Kill()
					kills.Add(1)
				}
			}
		})
	}
	for done := false; !done; requeues.Add(1) {
		cmd := command(broker.URL(), "deadletters", "requeue", "--all", "--consumer", "reports")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(50*time.Millisecond+rand.N(400*time.Millisecond)+time.Duration(requeues.Load())*20*time.Millisecond, func() { _ = cmd.Process.Kill() })
		done = cmd.Wait() == nil
		kill.Stop()
	}
	left := func(durable string) (letters int, requests int) {
		for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{Kind: schema.KindDead, HeadersOnly: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if schema.RequeuedLetter(m.Header) > 0 {
				requests++
			} else if c, _, _ := schema.ParseDeadLetter(m.Subject); c == durable {
				letters++
			}
		}
		return letters, requests
	}
	await("every dead letter is handled", func() bool {
		letters, requests := left("reports")
		return letters+requests == 0
	})
	close(finish)
	killers.Wait()
	killed.Wait()

	t.Logf("%d dead letters: requeue was run %d times, the consumer was killed %d times; the handler was called %d times",
		n, requeues.Load(), kills.Load(), count("reports", `SELECT count(*) FROM calls`)-n)
	if handled, distinct := count("reports", `SELECT count(*) FROM work`), count("reports", `SELECT count(DISTINCT id) FROM work`); handled != n || distinct != n {
		t.Errorf("work was done %d times, for %d of %d events", handled, distinct, n)
	}
	if letters, _ := left("billing"); letters != n || count("billing", `SELECT count(*) FROM calls`) != n {
		t.Errorf("billing has %d dead letters and was called %d times, want %d", letters, count("billing", `SELECT count(*) FROM calls`), n)
	}
	for m, err := range (subscribe.Source{JetStream: js}).Range(t.Context(), subscribe.Selection{HeadersOnly: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if count("reports", fmt.Sprintf(`SELECT count(*) FROM work WHERE sequence = %d AND subject = '%s'`, m.Sequence, m.Subject)) != 1 {
			t.Errorf("%s was not handled under its sequence and subject", m.ID)
		}
	}
}
