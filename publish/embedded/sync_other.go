//go:build !linux

package embedded

// syncRenames makes durable that files in a directory were renamed, replaced and
// removed.
func syncRenames(dir string) error { return syncDir(dir) }
