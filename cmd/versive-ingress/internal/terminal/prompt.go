package terminal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

var (
	errNotAsked  = errors.New("nothing was done: stdin is not a terminal; use --yes to skip the prompt")
	errNotAgreed = errors.New(`nothing was done: the answer was not "yes"`)
)

// Confirm writes question to out and reads the answer from in. It returns nil if
// the answer is "yes", and an error if it is not, if in is not a terminal, or if
// ctx ends.
func Confirm(ctx context.Context, in io.Reader, out io.Writer, question string) error {
	if !IsTerminal(in) {
		return errNotAsked
	}
	return ask(ctx, in, out, question)
}

// ask reads the answer. When ctx ends, it abandons the read, which cannot be
// interrupted.
func ask(ctx context.Context, in io.Reader, out io.Writer, question string) error {
	fmt.Fprintf(out, "%s Type yes: ", question)
	var answer string
	read := make(chan error, 1)
	go func() {
		var err error
		answer, err = bufio.NewReader(in).ReadString('\n')
		read <- err
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(out)
		return errNotAgreed
	case err := <-read:
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the answer: %w", err)
		}
	}
	if strings.TrimSpace(answer) != "yes" {
		return errNotAgreed
	}
	return nil
}
