package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockDir takes the data directory for this process. The lock ends with the
// file's closing or the process, whatever ends it. nats-server has none of its
// own, and two servers on one directory corrupt it.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
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

// unlockDir gives the data directory free. To close the file is not enough: a
// process that is just being started has a copy of it until it runs its program.
func unlockDir(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) // fails if it was closed before: fine
	f.Close()
}

// Disk returns how many bytes can still be written to the file system of a
// data directory, and how many are stored in it. A running broker may write
// meanwhile.
func Disk(dir string) (free, stored int64, err error) {
	if free, err = freeBytes(dir); err != nil {
		return 0, 0, err
	}
	stored, err = dirBytes(dir)
	return free, stored, err
}

// mostOfDisk returns the size in bytes that the store may reach: what it has
// now and most of what is free. A disk that runs full stops JetStream until
// it is restarted.
func mostOfDisk(dir string) (int64, error) {
	free, stored, err := Disk(dir)
	if err != nil {
		return 0, err
	}
	return stored + free/5*4, nil
}

// freeBytes returns what an unprivileged process can still write to dir's
// file system.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// dirBytes returns the total size of the files below dir.
func dirBytes(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				total += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // a running broker has removed it
			return nil
		}
		return err
	})
	return total, err
}
