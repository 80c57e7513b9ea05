package server

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// maxQueuedLines is how many lines of the log wait for a slow reader. They take a
	// few MiB at most.
	maxQueuedLines = 8 << 10
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
	direct  *slog.Logger // writes to file immediately; used by run alone
	lines   chan []byte  // nil asks run to end
	flushed chan struct{}
	dropped atomic.Int64
}

// OpenLog starts a log on file. newLogger returns a logger that writes to w, one line a
// call.
func OpenLog(file io.Writer, newLogger func(w io.Writer) *slog.Logger) *Log {
	l := &Log{
		file:    file,
		direct:  newLogger(file),
		lines:   make(chan []byte, maxQueuedLines),
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
	ctx, cancel := context.WithTimeout(context.Background(), FlushTimeout)
	defer cancel()
	select {
	case l.lines <- nil:
	case <-ctx.Done():
	}
	select {
	case <-l.flushed:
	case <-ctx.Done():
	}
}

// run writes the lines until it receives nil.
func (l *Log) run() {
	defer close(l.flushed)
	reported := int64(0)
	for line := range l.lines {
		if line == nil {
			return
		}
		if _, err := l.file.Write(line); err != nil {
			l.dropped.Add(1)
			continue
		}
		if dropped := l.dropped.Load(); dropped > reported && len(l.lines) == 0 {
			l.direct.Warn("lines of the log were dropped, because nothing read them in time", "lines", dropped-reported)
			reported = dropped
		}
	}
}

// lineQueue is the writer of a Log's logger.
type lineQueue struct{ log *Log }

// Write queues or drops a line. It implements [io.Writer].
func (q lineQueue) Write(line []byte) (int, error) {
	select {
	case q.log.lines <- bytes.Clone(line):
	default:
		q.log.dropped.Add(1)
	}
	return len(line), nil
}
