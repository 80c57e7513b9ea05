package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	r.fails("data_dir", err, "serve does not start as this user", "ls -ld "+dir)
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

const tmpfs, ramfs = 0x01021994, 0x858458f6 // types of file systems, of Linux

// checkFileSystem checks that the data directory outlives the machine's next start,
// and that files can be created in it.
func (d *doctor) checkFileSystem(r *Result) {
	var s unix.Statfs_t
	if unix.Statfs(d.Settings.DataDir, &s) != nil {
		return
	}
	r.when(s.Files > 0 && s.Ffree < 100, Problem, "inodes_low", fmt.Sprintf("the file system of %s has %d inodes left", d.Settings.DataDir, s.Ffree),
		"the broker stops when it cannot create a file", fmt.Sprintf("df -i '%s'  # then remove files of other programs, or give the store a file system of its own", d.Settings.DataDir))
	r.when(uint32(s.Type) == tmpfs || uint32(s.Type) == ramfs, Problem, "data_volatile", fmt.Sprintf("INGRESS_DATA_DIR=%s is in memory", d.Settings.DataDir),
		"a restart of the machine or the container loses events that were answered 2xx", "export INGRESS_DATA_DIR=/var/lib/versive-ingress  # on a disk; and restart")
}
