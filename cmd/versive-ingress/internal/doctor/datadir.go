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

	"versive-ingress/publish/access"
)

// checkAccess checks that this user can start an ingress on the data directory.
func (d *doctor) checkAccess(r *Result) {
	dir := d.Settings.DataDir
	err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK)
	readOnly := errors.Is(err, syscall.EROFS)
	if d.external() || err == nil || errors.Is(err, fs.ErrNotExist) || d.running && !readOnly { // serve creates it, or runs as another user
		return
	}
	if info, statErr := os.Stat(dir); statErr == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	err = access.Explain(&fs.PathError{Op: "INGRESS_DATA_DIR", Path: dir, Err: err}, dir)
	r.add(Problem, "data_dir", err.Error(), "serve does not start as this user", remedyFor(err, "ls -ld "+dir))
}

// remedyFor returns the remedy for an error of a file, and another for other errors.
func remedyFor(err error, other string) string {
	if denied, ok := errors.AsType[*access.Denied](err); ok {
		return denied.Remedy
	}
	return other
}

// onSystemd is the command in docs/operations.md that runs doctor as the unit runs serve.
const onSystemd = `runuser -u versive-ingress -- env INGRESS_SECRETS_FILE=/etc/versive-ingress/secrets INGRESS_DATA_DIR=/var/lib/versive-ingress ` +
	`sh -ac '. /etc/versive-ingress/environment; . /etc/versive-ingress/operator; exec versive-ingress "$@"' - doctor`

// asOwner returns an error of a file of the ingress, which may be running, with a
// remedy that does not take the file from it.
func asOwner(err error, command string) error {
	if denied, ok := errors.AsType[*access.Denied](err); ok {
		denied.Remedy = fmt.Sprintf("sudo -E -u '#%d' versive-ingress %s", denied.UID, command)
	}
	return err
}

// checkFileSystem checks that the data directory outlives the machine's next start,
// and that files can be created in it.
func (d *doctor) checkFileSystem(r *Result) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.Settings.DataDir, &s); err == nil && s.Files > 0 && s.Ffree < 100 {
		r.add(Problem, "inodes_low", fmt.Sprintf("the file system of %s has %d inodes left", d.Settings.DataDir, s.Ffree), "the broker stops when it cannot create a file",
			fmt.Sprintf("df -i '%s'  # then remove files of other programs, or give the store a file system of its own", d.Settings.DataDir))
	}
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
