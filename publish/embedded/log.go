package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// serverLog is a [server.Logger] that writes to a slog.Logger.
type serverLog struct {
	log   *slog.Logger
	fatal chan<- error

	mu       sync.Mutex
	started  bool     // guarded by mu
	warnings []string // logged until the server started; guarded by mu
}

// Noticef logs at debug level, because the server announces every step of its start.
func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

// Warnf drops the warning about a max_payload over 8 MiB, which is intended.
func (l *serverLog) Warnf(format string, v ...any) {
	if !strings.HasPrefix(format, "Maximum payloads over") {
		l.keep(slog.LevelWarn, fmt.Sprintf(format, v...))
	}
}

func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.Contains(text, "Remote server has a duplicate name") {
		text += ": the servers of a cluster need different names; set server_name: … in the configuration file of one of them, and start it with an empty data directory"
	}
	l.keep(slog.LevelError, text)
}

func (l *serverLog) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Tracef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

// Fatalf reports an error that keeps the server from starting. The server expects
// its logger to end the process.
func (l *serverLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Errorf(format, v...):
	default:
	}
}

// keep logs a warning and adds it to warnings. There are few for each stream.
func (l *serverLog) keep(level slog.Level, warning string) {
	l.log.Log(context.Background(), level, warning)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started {
		l.warnings = append(l.warnings, strings.TrimSpace(warning))
	}
}

// takeWarnings returns the warnings and errors logged so far. Later ones are not
// kept.
func (l *serverLog) takeWarnings() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	warnings := l.warnings
	l.started, l.warnings = true, nil
	return warnings
}
