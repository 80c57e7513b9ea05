// Package access replaces files durably, and explains why a file or directory cannot be
// read or written.
//
// Its part of the promise: an operator who reads the error can repair the cause
// without a search, before the sender gives up.
package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A Denied error means that this process may not use a file.
type Denied struct {
	Remedy string // a command to paste

	err    error  // of the operation, with the path
	reason string // describes the file or directory that denies it, and this process
	owner  int    // uid of the owner of that
}

func (d *Denied) Error() string { return fmt.Sprintf("%v: %s; run: %s", d.err, d.reason, d.Remedy) }

func (d *Denied) Unwrap() error { return d.err }

// Explain returns a [*Denied] for an error that wraps an [*fs.PathError] because a file
// may not be used, and every other error as it is. If root is not empty, the remedy
// applies to all of this directory, which belongs to the process.
func Explain(err error, root string) error {
	operation, ok := errors.AsType[*fs.PathError](err)
	if _, explained := errors.AsType[*Denied](err); explained || !ok || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EROFS) {
		return err
	}
	path, _ := filepath.Abs(operation.Path) // it fails only without a working directory
	if root != "" {
		root, _ = filepath.Abs(root)
	}
	info, statErr := os.Stat(path)
	for failed := statErr; failed != nil; info, failed = os.Stat(path) { // the nearest directory that can be examined
		if path == filepath.Dir(path) {
			return err
		}
		path = filepath.Dir(path)
	}
	owner, uid, gid := info.Sys().(*syscall.Stat_t), os.Geteuid(), os.Getegid()
	d := &Denied{
		err:    err,
		reason: fmt.Sprintf("%s belongs to uid %d, gid %d and has mode %v, and this process has uid %d, gid %d", path, owner.Uid, owner.Gid, info.Mode(), uid, gid),
		owner:  int(owner.Uid),
	}
	scope, target := "", path
	inside := root != "" && strings.HasPrefix(path+"/", root+"/")
	if inside {
		scope, target = "-R ", root
	}
	switch allowed := info.Mode()&0o600 == 0o600 && (!info.IsDir() || info.Mode()&0o100 != 0); {
	case errors.Is(err, syscall.EROFS):
		d.Remedy = fmt.Sprintf(`sudo mount -o remount,rw "$(findmnt -n -o TARGET --target %s)"`, Quote(path))
	case errors.Is(err, syscall.EPERM):
		d.Remedy = "sudo chattr -i -a " + Quote(path)
	case statErr != nil && !inside && errors.Is(statErr, fs.ErrPermission):
		d.Remedy = "sudo chmod o+x " + Quote(path)
	case statErr != nil && !inside && root != "":
		d.Remedy = fmt.Sprintf("sudo install -d -m 700 -o %d -g %d %s", uid, gid, Quote(root))
	case statErr != nil && !inside:
		d.Remedy = `ls -ld "$HOME"  # choose a directory that this user can write`
	case d.owner != uid:
		d.Remedy = fmt.Sprintf("sudo chown %s%d:%d %s", scope, uid, gid, Quote(target))
		if d.owner != 0 {
			d.Remedy += fmt.Sprintf("  # or run this program as uid %d", d.owner)
		}
	case allowed:
		d.Remedy = "sudo dmesg | grep -i denied  # a security module, such as SELinux, denies the access"
	default:
		d.Remedy = fmt.Sprintf("chmod %su+rwX %s", scope, Quote(target))
	}
	return d
}

// AsOwner returns an error of a file that belongs to the user of the ingress, which may be
// running, with a remedy that does not take the file from it: to run a command as its user.
func AsOwner(err error, command string) error {
	if denied, ok := errors.AsType[*Denied](err); ok {
		denied.Remedy = fmt.Sprintf("sudo -E -u '#%d' versive-ingress %s", denied.owner, command)
	}
	return err
}

// Quote quotes a path for a shell.
func Quote(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }
