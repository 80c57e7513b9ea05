package faultdisk

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const pageSize = 4 << 10

// A page is the unit that the disk writes atomically. Nil stands for zeros.
type page []byte

var zeros = make(page, pageSize)

// An image is the content of a disk, as a file of a FUSE file system. Pages that were
// not written take no memory.
type image struct {
	fs.Inode

	mu         sync.Mutex // guards the following
	durable    map[int64]page
	volatile   map[int64][]page // written since the last flush, oldest first
	generation int              // number of power cuts
	faults     [2]fault         // by op
}

// op is a type of request that can fail.
type op int

const (
	opWrite op = iota
	opFlush
)

// A fault determines which requests of an op fail.
type fault struct {
	when   When
	seen   int // number of requests since the fault was set
	failed int // number of failed ones
}

func newImage() *image {
	return &image{durable: make(map[int64]page), volatile: make(map[int64][]page)}
}

// setFault replaces the fault of an op; nil lifts it.
func (i *image) setFault(o op, when When) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.faults[o] = fault{when: when}
}

func (i *image) failed(o op) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.faults[o].failed
}

// cut drops volatile writes and invalidates all open handles. If random is not nil, each
// page gets a random one of the contents that it had since the last flush.
func (i *image) cut(random *rand.Rand) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.generation++
	for at, versions := range i.volatile {
		if random == nil {
			break
		}
		if n := random.IntN(len(versions) + 1); n < len(versions) {
			i.durable[at] = versions[n]
		}
	}
	clear(i.volatile)
}

// page returns the current content of a page. The caller must hold mu.
func (i *image) page(at int64) page {
	if versions := i.volatile[at]; len(versions) > 0 {
		return versions[len(versions)-1]
	}
	return i.durable[at]
}

func (i *image) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, Size
	return 0
}

// Open returns a handle that is valid until the next power cut. The kernel does not
// cache the image.
func (i *image) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &handle{i, i.generation}, fuse.FOPEN_DIRECT_IO, 0
}

// A handle is the open image of a loop device.
type handle struct {
	image      *image
	generation int
}

// fails reports whether a write or flush must fail. The caller must hold mu.
func (h *handle) fails(o op, data []byte) bool {
	if h.generation != h.image.generation {
		return true
	}
	f := &h.image.faults[o]
	if f.when == nil {
		return false
	}
	f.seen++
	if !f.when(f.seen, data) {
		return false
	}
	f.failed++
	return true
}

func (h *handle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.image.mu.Lock()
	defer h.image.mu.Unlock()
	if h.generation != h.image.generation {
		return nil, syscall.EIO
	}
	dest = dest[:max(0, min(int64(len(dest)), Size-off))]
	for n := 0; n < len(dest); {
		at, within := (off+int64(n))/pageSize, int((off+int64(n))%pageSize)
		p := h.image.page(at)
		if p == nil {
			p = zeros
		}
		n += copy(dest[n:], p[within:])
	}
	return fuse.ReadResultData(dest), 0
}

func (h *handle) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	h.image.mu.Lock()
	defer h.image.mu.Unlock()
	if h.fails(opWrite, data) {
		return 0, syscall.EIO
	}
	if off+int64(len(data)) > Size {
		return 0, syscall.ENOSPC
	}
	for n := 0; n < len(data); {
		at, within := (off+int64(n))/pageSize, int((off+int64(n))%pageSize)
		p := make(page, pageSize)
		copy(p, h.image.page(at))
		n += copy(p[within:], data[n:])
		if bytes.Equal(p, zeros) {
			p = nil
		}
		h.image.volatile[at] = append(h.image.volatile[at], p)
	}
	return uint32(len(data)), 0
}

// Fsync makes earlier writes durable.
func (h *handle) Fsync(context.Context, uint32) syscall.Errno {
	h.image.mu.Lock()
	defer h.image.mu.Unlock()
	if h.fails(opFlush, nil) {
		return syscall.EIO
	}
	for at, versions := range h.image.volatile {
		if p := versions[len(versions)-1]; p != nil {
			h.image.durable[at] = p
		} else {
			delete(h.image.durable, at)
		}
	}
	clear(h.image.volatile)
	return 0
}

// root is the directory with the image.
type root struct {
	fs.Inode
	image *image
}

func (r *root) OnAdd(ctx context.Context) {
	r.AddChild("image", r.NewPersistentInode(ctx, r.image, fs.StableAttr{Mode: syscall.S_IFREG}), false)
}
