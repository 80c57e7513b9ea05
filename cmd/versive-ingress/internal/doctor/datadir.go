package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkAccess checks that this user can start an ingress on the data directory.
func (d *doctor) checkAccess(r *Result) {
	dir := d.Settings.DataDir
	err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK)
	info, statErr := os.Stat(dir)
	if d.external() || err == nil || errors.Is(err, fs.ErrNotExist) { // serve creates it
		return
	}
	owner := ""
	if statErr == nil {
		s := info.Sys().(*syscall.Stat_t)
		owner = fmt.Sprintf(", which belongs to uid %d, gid %d and has mode %v", s.Uid, s.Gid, info.Mode())
	}
	remedy := fmt.Sprintf("sudo chown -R %d:%d '%s'  # or run serve and doctor as its owner", os.Getuid(), os.Getgid(), dir)
	if errors.Is(err, syscall.EROFS) {
		remedy = fmt.Sprintf("sudo mount -o remount,rw \"$(findmnt -n -o TARGET --target '%s')\"", dir)
	}
	r.add(Problem, "data_dir", fmt.Sprintf("this process (uid %d, gid %d) cannot write INGRESS_DATA_DIR=%s%s: %v", os.Getuid(), os.Getgid(), dir, owner, err),
		"serve does not start as this user", remedy)
}

// checkVolatile checks that the data directory outlives the machine's next start.
func (d *doctor) checkVolatile(r *Result) {
	if kind := fileSystem(d.Settings.DataDir); kind == "tmpfs" || kind == "ramfs" {
		r.add(Problem, "data_volatile", fmt.Sprintf("INGRESS_DATA_DIR=%s is in memory (%s)", d.Settings.DataDir, kind),
			"a restart of the machine or the container loses events that were answered 2xx", "export INGRESS_DATA_DIR=/var/lib/versive-ingress  # on a disk; and restart")
	}
}

// fileSystem returns the type of the file system that has a directory, or "" where
// there is no /proc.
func fileSystem(dir string) (kind string) {
	dir, _ = filepath.Abs(dir)
	dir, _ = filepath.EvalSymlinks(dir) // "" if it does not exist
	mounts, _ := os.ReadFile("/proc/self/mounts")
	longest := 0
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f[1]) >= longest && strings.HasPrefix(dir+"/", strings.TrimSuffix(f[1], "/")+"/") {
			longest, kind = len(f[1]), f[2]
		}
	}
	return kind
}
