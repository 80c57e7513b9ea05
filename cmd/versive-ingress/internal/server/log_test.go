package server

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"versive-ingress/publish/embedded/embeddedtest"
)

// plainLogger returns a logger whose lines are easy to compare.
func plainLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// openPipeLog returns a log whose file is a pipe, and the other end of the pipe.
func openPipeLog(t *testing.T) (l *Log, reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	return OpenLog(writer, plainLogger), reader, writer
}

// A reader that does not read delays no request. When it reads again, it gets the lines
// that were queued, in order, the number of those that were dropped, and later lines.
func TestLogOfSlowReader(t *testing.T) {
	t.Parallel()
	l, reader, writer := openPipeLog(t)
	logged := 0
	for ; l.Dropped() < 10; logged++ {
		l.Logger.Info("line", "n", logged)
	}

	lines := bufio.NewScanner(reader)
	read := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("no more lines: %v", lines.Err())
		}
		return lines.Text()
	}
	last := -1
	for known := 0; known < logged; {
		line, n := read(), 0
		if text, ok := strings.CutPrefix(line, `msg="lines of the log were dropped, because nothing read them in time" lines=`); ok {
			n, _ = strconv.Atoi(text)
			known += n
			continue
		}
		if _, err := fmt.Sscanf(line, "msg=line n=%d", &n); err != nil || n <= last {
			t.Fatalf("got %s after line %d (%v)", line, last, err)
		}
		last = n
		known++
	}
	l.Logger.Info("after")
	if got := read(); got != "msg=after" {
		t.Errorf("got %s", got)
	}

	l.Logger.Info("last")
	l.Close()
	writer.Close()
	if got := read(); got != "msg=last" || lines.Scan() {
		t.Errorf("the log ends with %q, %q", got, lines.Text())
	}
}

// Close ends even if nothing reads.
func TestLogThatCannotBeFlushed(t *testing.T) {
	t.Parallel()
	l, _, _ := openPipeLog(t)
	for range maxQueued / 1000 {
		l.Logger.Info(strings.Repeat("x", 1000)) // more than the pipe takes
	}
	l.Close()
}

// Lines are dropped once the reader has gone, which the metric shows.
func TestLogWithoutReader(t *testing.T) {
	t.Parallel()
	l, reader, _ := openPipeLog(t)
	reader.Close()
	l.Logger.Info("line")
	embeddedtest.Await(t, "a line is dropped", func() bool { return l.Dropped() == 1 })
	l.Close()

	i, err := Start(t.Context(), Config{Settings: newSettings(t), Version: "v1", Commit: "c0ffee", Logger: slog.New(slog.DiscardHandler), LogDropped: l.Dropped})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Stop()
	const name = "versive_ingress_log_lines_dropped_total"
	if got := (&system{Server: i}).metric(name); got != name+" 1\n" {
		t.Errorf("got %q", got)
	}
}
