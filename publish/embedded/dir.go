package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"

	"versive-ingress/publish/access"
)

const lockMode = 0o600

// lockDir locks the data directory for this process, because nats-server does not
// and two servers corrupt it. The lock is released when the file is closed or the
// process ends, even if it crashes.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, lockMode)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", access.Explain(err, dir))
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := os.ReadFile(path)
		f.Close()
		return nil, fmt.Errorf("data directory %s is in use by process %s; stop that process, or choose another directory", dir, strings.TrimSpace(string(holder)))
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	return f, nil
}

// unlockDir releases the lock. Closing the file is not enough: a child process has
// a copy of the descriptor between fork and exec. It may be called again, even while
// another call runs.
func unlockDir(f *os.File) {
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _ = syscall.Flock(int(fd), syscall.LOCK_UN) }) // fails if f is closed
	}
	f.Close()
}

// Disk returns the free bytes of the file system of a data directory, and the
// bytes that the store takes in it. A broker may be running on dir.
func Disk(dir string) (free, stored int64, err error) {
	if free, err = freeBytes(dir); err != nil {
		return 0, 0, err
	}
	err = walk(filepath.Join(dir, server.JetStreamStoreDir), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			stored += info.Size()
		} else if errors.Is(err, fs.ErrNotExist) { // a running broker has removed it
			return nil
		}
		return err
	})
	return free, stored, err
}

// measureLimit returns the limit of a store without a configured one: 80 % of what its
// disk could hold of it. The store's growth does not change that.
func measureLimit(dir string) (int64, error) {
	free, stored, err := Disk(dir)
	return max((stored+free)/5*4, 1), err // nats-server has a default for 0
}

// makeDir durably creates a directory and its parents.
func makeDir(dir string) error {
	if exists(dir) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return access.Explain(err, dir)
	}
	return syncRenames(dir)
}

// overwriteFile durably writes data over the content of a file in place. That needs
// no free space unless the file system copies on write, but a power cut during the
// write can damage a sector.
func overwriteFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_ = f.Sync() // consumes the error of an earlier write, if any
	if _, err = f.WriteAt(data, 0); err == nil {
		err = f.Truncate(int64(len(data)))
	}
	return cmp.Or(err, f.Sync(), f.Close())
}
