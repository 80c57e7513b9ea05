package erasure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
)

const notEmbedded = `not verified: erase can only look into the files of an embedded broker's stream with
one replica. Each server overwrites its copies, unless its store is encrypted, but
a power cut within the next seconds may undo that, and erase would not find it.`

// Settle makes it durable that the broker has overwritten the messages with these
// sequences in each stream, and returns an error if the content of any is left.
// It writes the outcome to w, caveats included. A caveat is no error. verified is true if
// all files were searched and no content was found, with no caveat.
func Settle(ctx context.Context, c *broker.Connection, w io.Writer, overwritten map[schema.Kind][]uint64) (verified bool, err error) {
	var caveats []string
	looked, left := false, 0
	for kind := range schema.Kinds {
		if len(overwritten[kind]) == 0 {
			continue
		}
		n, caveat, err := settleStream(ctx, c, kind, overwritten[kind])
		if err != nil {
			return false, fmt.Errorf("making the erasure durable: %w", err)
		}
		looked, left = true, left+n
		if caveat != "" && !slices.Contains(caveats, caveat) {
			caveats = append(caveats, caveat)
		}
	}
	for _, caveat := range caveats {
		fmt.Fprintln(w, caveat)
	}
	switch {
	case left > 0:
		return false, fmt.Errorf("the content of %s is in block files: a power cut or the end of the broker has undone its overwriting, or it was deleted without being overwritten; restart the ingress, which overwrites it before it opens the store, and run this again", terminal.Plural(left, "deleted message", "deleted messages"))
	case looked && len(caveats) == 0:
		fmt.Fprintf(w, "verified: nothing of it is in the block files below %s, power loss included\n", c.Settings.DataDir)
		return true, nil
	}
	return false, nil
}

// settleStream settles one stream. It returns the number of messages whose content is
// left, and what is not guaranteed, for the operator; "" if there is no such caveat.
func settleStream(ctx context.Context, c *broker.Connection, kind schema.Kind, sequences []uint64) (left int, caveat string, err error) {
	name, dir := kind.Stream(c.Settings.Stream), c.Settings.DataDir
	if c.Settings.NATSURL != "" {
		return 0, notEmbedded, nil
	}
	stream, err := c.JetStream.Stream(ctx, name)
	if err != nil {
		return 0, "", fmt.Errorf("stream %s: %w", name, err)
	}
	info := stream.CachedInfo()
	if info.Config.Replicas > 1 {
		return 0, notEmbedded, nil
	}
	erased := embedded.Erased{Stream: name, Created: info.Created, Sequences: sequences}
	inBlocks, unsettled := erased.Sync(dir)
	if erased.Sequences, err = publish.Deleted(ctx, stream, inBlocks); err != nil {
		return 0, "", err
	}
	if left = len(erased.Sequences); left > 0 {
		if err := erased.Schedule(dir); err != nil {
			return left, "", fmt.Errorf("the content of %s of stream %s is in block files again, and the next start cannot be made to overwrite it: %w; run this as the user of the ingress", terminal.Plural(left, "deleted message", "deleted messages"), name, err)
		}
	}
	switch {
	case errors.Is(unsettled, embedded.ErrEncrypted):
		return left, fmt.Sprintf(`not overwritten: stream %s is encrypted (jetstream { key }), and the broker deletes from
such a stream without overwriting. The content stays in block files, unreadable
without the key, until the broker compacts them, if ever.`, name), nil
	case errors.Is(unsettled, embedded.ErrCompressed):
		return left, fmt.Sprintf(`not verified: stream %s is compressed. The overwriting is durable, but content that
a power cut has brought back earlier would not be found.`, name), nil
	case errors.Is(unsettled, fs.ErrNotExist), errors.Is(unsettled, fs.ErrPermission):
		return left, fmt.Sprintf(`not verified: %v.
The broker has overwritten the copies, but a power cut within the next seconds may
undo that. Run erase again on the machine of the ingress, as its user and with its
INGRESS_DATA_DIR: it makes that durable, and finds what came back.`, unsettled), nil
	}
	return left, "", unsettled
}
