package subscribe_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	_ "github.com/ncruces/go-sqlite3/driver"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// reports is a service that writes a report on each interview. The id of an
// event is committed in one transaction with the work, so the work is done exactly
// once, however often the event is delivered.
//
// handled has a row for each id that was handled or erased. An erased event leaves
// no report, in whichever order the two are delivered.
const reportsSchema = `
CREATE TABLE IF NOT EXISTS handled (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS reports (id TEXT, interview TEXT, turns INTEGER)`

type reports struct{ db *sql.DB }

func openReports(file string) (*reports, error) {
	// Immediate: a transaction that waits for another one does so before it reads.
	db, err := sql.Open("sqlite3", "file:"+file+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	if _, err := db.Exec(reportsSchema); err != nil {
		return nil, err
	}
	return &reports{db}, nil
}

func (r *reports) event(ctx context.Context, data schema.InterviewCompleted, m subscribe.Message) error {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	first, err := settle(ctx, tx, m.ID)
	if err != nil || !first {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO reports (id, interview, turns) VALUES (?, ?, ?)`,
		m.ID, data.Interview.ID, len(data.Interview.Conversation)); err != nil {
		return err
	}
	return tx.Commit()
}

func (r *reports) erasure(ctx context.Context, erased schema.Subject, _ subscribe.Message) error {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := settle(ctx, tx, erased.ID); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM reports WHERE id = ?`, erased.ID); err != nil {
		return err
	}
	return tx.Commit()
}

// settle notes the id and reports whether this is the first time.
func settle(ctx context.Context, tx *sql.Tx, id string) (bool, error) {
	result, err := tx.ExecContext(ctx, `INSERT INTO handled (id) VALUES (?) ON CONFLICT DO NOTHING`, id)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

// Exactly once: the id of an event that is redelivered, here because its
// acknowledgement was lost, is in the database.
func Example_exactlyOnce() {
	js, end := exampleStream()
	defer end()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	reports, err := openReports(filepath.Join(dir, "reports.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer reports.db.Close()

	for _, name := range []string{"first", "second"} { // each gets all events
		ctx, stop := context.WithCancel(context.Background())
		err := subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
			Durable: name,
			Event: subscribe.Typed(func(ctx context.Context, data schema.InterviewCompleted, m subscribe.Message) error {
				if m.Sequence == 2 { // an example ends; a service does not
					defer stop()
				}
				return reports.event(ctx, data, m)
			}),
			Erasure: reports.erasure,
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	var n int
	if err := reports.db.QueryRow(`SELECT count(*) FROM reports`).Scan(&n); err != nil {
		log.Fatal(err)
	}
	fmt.Println("reports:", n)
	// Output:
	// reports: 2
}
