package server

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxQueued is how many bytes of the log wait for a slow reader.
	maxQueued = 2 << 20
	// writeInterval is how long a line waits for others. To wake up the goroutine that
	// writes it costs about as much as to write it.
	writeInterval = 10 * time.Millisecond
	// FlushTimeout bounds how long the end of the process waits for the reader.
	FlushTimeout = 2 * time.Second
)

// A Log writes lines to a file in the background and in order, so that a request does
// not wait for whoever reads the file. Lines are dropped and counted when too many wait,
// or after the reader has gone.
type Log struct {
	// Logger writes to the log. It is safe for concurrent use and does not block.
	Logger *slog.Logger

	file    io.Writer
	direct  *slog.Logger  // writes to file immediately; used by run alone
	due     *time.Timer   // starts when lines begin to wait, and ends with Close
	flushed chan struct{} // closed when all lines are written after Close
	dropped atomic.Int64

	mu     sync.Mutex
	lines  []byte // that wait for run; guarded by mu
	closed bool   // guarded by mu
}

// OpenLog starts a log on file. newLogger returns a logger that writes to w, one line a
// call.
func OpenLog(file io.Writer, newLogger func(w io.Writer) *slog.Logger) *Log {
	l := &Log{
		file:    file,
		direct:  newLogger(file),
		due:     time.NewTimer(writeInterval),
		flushed: make(chan struct{}),
	}
	l.Logger = newLogger(lineQueue{l})
	go l.run()
	return l
}

// Dropped returns the number of lines that were dropped.
func (l *Log) Dropped() int64 { return l.dropped.Load() }

// Close waits until all lines are written, for FlushTimeout at most.
func (l *Log) Close() {
	l.mu.Lock()
	l.closed = true
	l.due.Reset(0)
	l.mu.Unlock()
	select {
	case <-l.flushed:
	case <-time.After(FlushTimeout):
	}
}

// run writes the lines that wait, together, until Close is called.
func (l *Log) run() {
	defer close(l.flushed)
	var lines []byte
	reported := int64(0)
	for closed := false; !closed; {
		<-l.due.C
		l.mu.Lock()
		closed = l.closed
		lines, l.lines = l.lines, lines[:0]
		dropped := l.dropped.Load() // after these lines
		l.mu.Unlock()
		if n, err := l.file.Write(lines); err != nil {
			l.dropped.Add(int64(bytes.Count(lines[n:], []byte("\n"))))
			continue
		}
		if dropped > reported {
			l.direct.Warn("lines of the log were dropped, because nothing read them in time", "lines", dropped-reported)
			reported = dropped
		}
	}
}

// lineQueue is the writer of a Log's logger.
type lineQueue struct{ log *Log }

// Write queues or drops a line. It implements [io.Writer].
func (q lineQueue) Write(line []byte) (int, error) {
	l := q.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.lines)+len(line) > maxQueued {
		l.dropped.Add(1)
		return len(line), nil
	}
	if len(l.lines) == 0 {
		l.due.Reset(writeInterval)
	}
	l.lines = append(l.lines, line...)
	return len(line), nil
}
