package embedded

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// bridge is the server's logger.
type bridge struct {
	log   *slog.Logger
	fatal chan<- error

	mu       sync.Mutex
	started  bool     // guarded by mu
	warnings []string // until the server has started; guarded by mu
}

// Noticef logs at debug level: the server announces every step of its start.
func (b *bridge) Noticef(format string, v ...any) { b.log.Debug(fmt.Sprintf(format, v...)) }

// Warnf leaves out what the server says of a max_payload over 8 MiB: the
// default is that large on purpose.
func (b *bridge) Warnf(format string, v ...any) {
	if !strings.HasPrefix(format, "Maximum payloads over") {
		text := fmt.Sprintf(format, v...)
		b.keep(text)
		b.log.Warn(text)
	}
}

func (b *bridge) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	b.keep(text)
	b.log.Error(text)
}

func (b *bridge) Debugf(format string, v ...any) { b.log.Debug(fmt.Sprintf(format, v...)) }
func (b *bridge) Tracef(format string, v ...any) { b.log.Debug(fmt.Sprintf(format, v...)) }

// Fatalf is called for errors that keep the server from starting; it leaves
// it to its logger to end the process.
func (b *bridge) Fatalf(format string, v ...any) {
	select {
	case b.fatal <- fmt.Errorf(format, v...):
	default:
	}
}

// keep adds to the warnings, of which there are a few for each stream.
func (b *bridge) keep(warning string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.started {
		b.warnings = append(b.warnings, strings.TrimSpace(warning))
	}
}

// takeWarnings returns what the server warned of during its start. From then
// on warnings are not kept.
func (b *bridge) takeWarnings() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	warnings := b.warnings
	b.started, b.warnings = true, nil
	return warnings
}
