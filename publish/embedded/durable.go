package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Durable returns an error if a message that the server has acknowledged or, for a
// duplicate, that it knows may not be on the disk:
//
//   - An fsync can succeed without effect while the journal of ext4 or XFS is aborted,
//     because another fsync has failed. The file system accepts no change after that.
//   - After a failed write the server acknowledges no new message, but it reports a
//     second copy of a message as a duplicate even if the fsync of the first copy's
//     batch has failed.
//   - A server that is shutting down acknowledges messages without an fsync once it has
//     closed their stream.
func (b *Broker) Durable(duplicate bool) error {
	b.mu.Lock()
	s, err := b.server, b.down
	b.mu.Unlock()
	switch {
	case err != nil:
	case !s.Running():
		err = errors.New("not running")
	default:
		err = failedFileSystem(b.lock)
	}
	if err == nil && duplicate {
		err = broken(s)
	}
	if err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	return nil
}

// failedFileSystem returns an error if the file system of an open file accepts no
// changes. Setting the file's mode begins a transaction, by which ext4 notices that its
// journal was aborted; it ignores the error, but then fails even an empty write.
func failedFileSystem(f *os.File) error {
	err := f.Chmod(lockMode)
	if err == nil {
		_, err = unix.Pwrite(int(f.Fd()), nil, 0)
	}
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO) { // others are the file's own
		return fmt.Errorf("the file system of the store has failed: %w", err)
	}
	return nil
}

// Sync returns when all messages that the server knows are on the disk. The server does
// not sync the part that it has stored of a batch with which the store reaches its limit.
//
// After an error, Sync fails until the server has been restarted, over blocks that were
// rewritten: the kernel reports only once that it could not write a page.
func (b *Broker) Sync() error {
	b.syncMu.Lock()
	defer b.syncMu.Unlock()
	if b.unsynced == nil {
		b.unsynced = visitLastBlocks(b.cfg.storeDir(), syncFile)
	}
	if b.unsynced != nil {
		return fmt.Errorf("embedded broker: %w", b.unsynced)
	}
	return nil
}

// syncFailed returns the error for which Sync fails, or nil.
func (b *Broker) syncFailed() error {
	b.syncMu.Lock()
	defer b.syncMu.Unlock()
	return b.unsynced
}

// syncFile syncs a file, unless the server has removed it, and returns its size.
func syncFile(path string, _ bool) (size int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), f.Sync()
}
