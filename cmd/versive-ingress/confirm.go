package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

var (
	errNotAsked  = errors.New("nothing was done: the standard input is no terminal to ask on; say --yes")
	errNotAgreed = errors.New(`nothing was done: the answer was not "yes"`)
)

// confirm asks on the terminal whether what was shown is to be done. It
// returns nil only if the answer is yes.
func confirm(cmd *cobra.Command, question string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return errNotAsked
	}
	return ask(cmd.Context(), in, cmd.ErrOrStderr(), question)
}

// ask reads the answer. When ctx ends, it leaves the reading behind: a terminal
// cannot be told to stop.
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
