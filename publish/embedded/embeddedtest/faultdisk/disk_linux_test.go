package faultdisk_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	before = bytes.Repeat([]byte("before"), 2<<10)
	lost   = bytes.Repeat([]byte("lost"), 3<<10)
)

// onEach runs a test on a disk with each kind of file system.
func onEach(t *testing.T, test func(*testing.T, *faultdisk.Disk)) {
	t.Parallel()
	for _, kind := range faultdisk.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			test(t, faultdisk.New(t, kind))
		})
	}
}

// create returns a file opened for appending.
func create(t *testing.T, d *faultdisk.Disk) *os.File {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(d.Dir, "file"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// write appends data and returns the error of Sync.
func write(t *testing.T, file *os.File, data []byte) error {
	t.Helper()
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	return file.Sync()
}

// read returns the content of the file, and whether it contains the lost data.
func read(t *testing.T, d *faultdisk.Disk) (data []byte, found bool) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(d.Dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(data, before) {
		t.Error("flushed data is missing")
	}
	return data, bytes.Contains(data, lost)
}

// A failed write is reported wherever it is in a large file.
func TestFailedWriteOfLargeFile(t *testing.T) {
	onEach(t, func(t *testing.T, d *faultdisk.Disk) {
		file := create(t, d)
		for range 2 { // also after a remount
			for at := 100 << 10; at < 4<<20; at += 700 << 10 {
				data := bytes.Repeat([]byte("x"), 4<<20)
				copy(data[at:], lost)
				d.FailWrites(faultdisk.Holding(lost[:1000], faultdisk.Always()))
				if err := write(t, file, data); !errors.Is(err, syscall.EIO) {
					t.Errorf("the write at %d of %d has failed, and Sync returns %v", at, len(data), err)
				}
				d.FailWrites(nil)
			}
			file.Close()
			d.Remount()
			file = create(t, d)
		}
		file.Close()
	})
}

// After a failed fsync the page cache has data that the disk does not have, and the
// next fsync succeeds.
func TestFailedWrite(t *testing.T) {
	onEach(t, func(t *testing.T, d *faultdisk.Disk) {
		file := create(t, d)
		if err := write(t, file, before); err != nil {
			t.Fatal(err)
		}
		d.FailWrites(faultdisk.Holding(lost[:64], faultdisk.Always()))
		if err := write(t, file, lost); !errors.Is(err, syscall.EIO) {
			t.Fatalf("fsync returned %v, want EIO", err)
		}
		if n := d.FailedWrites(); n == 0 {
			t.Error("no write has failed")
		}
		d.FailWrites(nil)
		if err := write(t, file, before); err != nil {
			t.Errorf("the next fsync: %v", err)
		}
		file.Close()
		if _, found := read(t, d); !found {
			t.Error("the page cache does not have the data")
		}
		d.Remount()
		if _, found := read(t, d); found {
			t.Error("the data of the failed write is on the disk")
		}
	})
}

// fsync returns the error of a failed flush.
func TestFailedSync(t *testing.T) {
	onEach(t, func(t *testing.T, d *faultdisk.Disk) {
		file := create(t, d)
		if err := write(t, file, before); err != nil {
			t.Fatal(err)
		}
		d.FailSyncs(faultdisk.Always())
		if err := write(t, file, lost); !errors.Is(err, syscall.EIO) {
			t.Errorf("fsync returned %v, want EIO", err)
		}
		file.Close()
		d.Remount()
		read(t, d)
	})
}

// A power cut loses only data that was not flushed.
func TestCut(t *testing.T) {
	onEach(t, func(t *testing.T, d *faultdisk.Disk) {
		for seed := range uint64(5) {
			file := create(t, d)
			if err := write(t, file, before); err != nil {
				t.Fatal(err)
			}
			if _, err := file.Write(lost); err != nil {
				t.Fatal(err)
			}
			var random *rand.Rand
			if seed > 0 {
				random = rand.New(rand.NewPCG(seed, 0))
			}
			d.Cut(random)
			if err := file.Sync(); err == nil {
				t.Error("fsync succeeded without power")
			}
			file.Close()
			d.Remount()
			if _, found := read(t, d); found {
				t.Error("data that was not flushed is on the disk")
			}
			if err := os.Remove(filepath.Join(d.Dir, "file")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Writes that have reached the disk but were not flushed may survive independently of
// each other. Btrfs is not tested, because it does not overwrite in place.
func TestCutReorders(t *testing.T) {
	t.Parallel()
	for _, kind := range []faultdisk.Kind{faultdisk.Ext4, faultdisk.XFS} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			d := faultdisk.New(t, kind)
			overwrite := func(b byte, random *rand.Rand) (survived int) {
				const pages, size = 64, 4 << 10
				file := create(t, d)
				defer file.Close()
				if err := file.Truncate(0); err != nil {
					t.Fatal(err)
				}
				if err := write(t, file, make([]byte, pages*size)); err != nil {
					t.Fatal(err)
				}
				over, err := os.OpenFile(file.Name(), os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer over.Close()
				if _, err := over.Write(bytes.Repeat([]byte{b}, pages*size)); err != nil {
					t.Fatal(err)
				}
				flags := unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
				if err := unix.SyncFileRange(int(over.Fd()), 0, 0, flags); err != nil {
					t.Fatal(err)
				}
				d.Cut(random)
				file.Close()
				over.Close()
				d.Remount()
				data, err := os.ReadFile(file.Name())
				if err != nil || len(data) != pages*size {
					t.Fatalf("%d bytes, %v", len(data), err)
				}
				for at := 0; at < len(data); at += size {
					if data[at] == b {
						survived++
					}
				}
				return survived
			}
			if n := overwrite(1, nil); n != 0 {
				t.Errorf("%d pages survived without being flushed", n)
			}
			if n := overwrite(2, rand.New(rand.NewPCG(1, 0))); n == 0 || n == 64 {
				t.Errorf("%d pages of 64 survived, want some", n)
			}
		})
	}
}

// A disk is removed when its process dies, even if threads wait for it.
func TestGuard(t *testing.T) {
	if dir := os.Getenv("FAULTDISK_DIE_IN"); dir != "" {
		d := faultdisk.New(t, faultdisk.Ext4)
		var syncs atomic.Int64
		for range 8 {
			go func() {
				for file := create(t, d); ; syncs.Add(1) {
					_ = write(t, file, make([]byte, 64<<10))
				}
			}()
		}
		for syncs.Load() < 100 {
			time.Sleep(time.Millisecond)
		}
		os.Exit(3)
	}
	t.Parallel()
	if why := faultdisk.Missing(faultdisk.Ext4); why != "" {
		t.Skip("NOT CHECKED: " + why)
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestGuard$")
	cmd.Env = append(os.Environ(), "FAULTDISK_DIE_IN="+dir, "TMPDIR="+dir)
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 3 {
		t.Fatalf("the process ended with %v", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(mounts), dir) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still mounted:\n%s", mounts)
		}
	}
}

func ExampleHolding() {
	when := faultdisk.Holding([]byte("event"), faultdisk.Every(2))
	for i, data := range []string{"journal", "event 1", "journal", "event 2", "event 3"} {
		fmt.Println(data, when(i+1, []byte(data)))
	}
	// Output:
	// journal false
	// event 1 false
	// journal false
	// event 2 true
	// event 3 false
}
