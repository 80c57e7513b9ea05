package access_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"versive-ingress/publish/access"
)

func ExampleExplain() {
	err := &fs.PathError{Op: "open", Path: "/", Err: syscall.EROFS}
	if denied, ok := errors.AsType[*access.Denied](access.Explain(err, "")); ok {
		fmt.Println(denied.Remedy)
	}
	// Output: sudo mount -o remount,rw "$(findmnt -n -o TARGET --target '/')"
}

// The error names the owner and the mode of what denies the access, the user of this
// process, and a command that gives it access.
func TestExplain(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT CHECKED: giving a file to another user needs root")
	}
	const nobody = 65534
	for _, test := range []struct {
		name string
		path string // below a directory of another user, which has the file "file's"
		uid  int    // owner of that file
		mode fs.FileMode
		root string
		want string // of the command
	}{
		{"file of another user", "dir/file's", nobody, 0o600, "", "sudo chown 0:0 "},
		{"file without permissions", "dir/file's", 0, 0, "", "chmod u+rwX "},
		{"file in a tree", "dir/file's", nobody, 0o600, "dir", "sudo chown -R 0:0 "},
		{"file in a tree, without permissions", "dir/file's", 0, 0o200, "dir", "chmod -R u+rwX "},
		{"new file in a tree", "dir/new", 0, 0o600, "dir", "sudo chown -R 0:0 "},
		{"new tree", "dir/new", 0, 0o600, "dir/new", "sudo install -d -m 700 -o 0 -g 0 "},
		{"new file elsewhere", "dir/new", 0, 0o600, "", `ls -ld "$HOME"`},
		{"allowed by its mode", "dir/file's", 0, 0o600, "", "sudo dmesg"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			dir, file := filepath.Join(top, "dir"), filepath.Join(top, "dir", "file's")
			for _, err := range []error{
				os.Mkdir(dir, 0o700), os.WriteFile(file, nil, 0o600),
				os.Chown(dir, nobody, nobody), os.Chown(file, test.uid, test.uid), os.Chmod(file, test.mode),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			path, root := filepath.Join(top, test.path), ""
			if test.root != "" {
				root = filepath.Join(top, test.root)
			}
			err := access.Explain(fmt.Errorf("INGRESS_X: %w", &fs.PathError{Op: "open", Path: path, Err: syscall.EACCES}), root)
			denied, ok := errors.AsType[*access.Denied](err)
			if !ok || !errors.Is(err, fs.ErrPermission) || !strings.HasPrefix(denied.Remedy, test.want) {
				t.Fatalf("got %v", err)
			}
			for _, part := range []string{"INGRESS_X: ", path, "belongs to uid ", "this process has uid 0, gid 0", denied.Remedy} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("want %q in %v", part, err)
				}
			}
			if strings.Contains(test.want, "ch") {
				command := exec.Command("sh", "-ec", `sudo() { "$@"; }; `+denied.Remedy)
				if out, err := command.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", denied.Remedy, err, out)
				}
				_, err := os.Stat(path)
				if again := access.Explain(&fs.PathError{Op: "open", Path: path, Err: syscall.EACCES}, root).Error(); err == nil && !strings.Contains(again, "sudo dmesg") {
					t.Errorf("after the command: %s", again)
				}
			}
		})
	}
}

func TestExplainLeavesOtherErrors(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, fs.ErrPermission, &fs.PathError{Op: "open", Path: "/", Err: fs.ErrNotExist}} {
		if got := access.Explain(err, ""); got != err {
			t.Errorf("got %v, want %v", got, err)
		}
	}
}
