package embedded_test

import (
	"context"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// coarseDir is the root of a file system with 1,000 free blocks of 4 KiB, which asks
// for transfers of 1 MiB, as virtiofs does.
type coarseDir struct{ fs.Inode }

func (*coarseDir) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize = 1<<20, 4<<10
	out.Blocks, out.Bfree, out.Bavail = 3000, 2000, 1000
	return 0
}

func TestDiskWithLargeTransfers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mounted, err := fs.Mount(dir, &coarseDir{}, nil)
	if err != nil {
		t.Skipf("NOT CHECKED: no FUSE file system: %v", err)
	}
	t.Cleanup(func() { // a child process of another test has the files of this one until it executes its program
		embeddedtest.Await(t, "the file system is unmounted", func() bool { return mounted.Unmount() == nil })
	})
	if free, stored, err := embedded.Disk(dir); free != 1000*4<<10 || stored != 0 || err != nil {
		t.Errorf("%d bytes are free, want %d; %d are stored; %v", free, 1000*4<<10, stored, err)
	}
}
