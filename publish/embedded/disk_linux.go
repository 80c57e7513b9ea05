package embedded

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncRenames makes renames, replacements and removals of files in a directory
// durable. It syncs the whole file system, because an fsync of the directory does not
// suffice with btrfs: after a power cut, a file that was fsynced can be back under its
// old name.
func syncRenames(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// freeBytes returns the free space, for unprivileged processes, of dir's file
// system. Blocks have the size f_frsize; f_bsize can be a larger size for transfers.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Frsize, nil
}
