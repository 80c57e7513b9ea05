package embedded

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncRenames makes durable that files in a directory were renamed, replaced and
// removed. It flushes the whole file system: after an fsync of the directory
// alone, btrfs brings back at a power cut a file that was fsynced under a name
// and has lost it since.
func syncRenames(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}
