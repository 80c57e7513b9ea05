//go:build !linux

package embedded

import (
	"golang.org/x/sys/unix"

	"versive-ingress/publish/access"
)

// syncRenames makes renames, replacements and removals of files in a directory
// durable.
func syncRenames(dir string) error { return access.SyncDir(dir) }

// freeBytes returns the free space, for unprivileged processes, of dir's file
// system.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}
