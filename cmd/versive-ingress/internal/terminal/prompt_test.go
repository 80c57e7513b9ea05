package terminal

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestAsk(t *testing.T) {
	for answer, want := range map[string]error{
		"yes\n":   nil,
		" yes \n": nil,
		"yes":     nil, // and the end of the input
		"y\n":     errNotAgreed,
		"Yes\n":   errNotAgreed,
		"\n":      errNotAgreed,
		"":        errNotAgreed,
	} {
		if err := ask(t.Context(), strings.NewReader(answer), io.Discard, "Really?"); !errors.Is(err, want) {
			t.Errorf("answer %q: got %v, want %v", answer, err, want)
		}
	}
}

// Ctrl-C before there is an answer.
func TestAskIsInterrupted(t *testing.T) {
	in, terminal := io.Pipe()
	defer terminal.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ask(ctx, in, io.Discard, "Really?"); !errors.Is(err, errNotAgreed) {
		t.Errorf("got %v", err)
	}
}
