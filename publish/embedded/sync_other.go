//go:build !linux

package embedded

// syncRenames makes renames, replacements and removals of files in a directory
// durable.
func syncRenames(dir string) error { return syncDir(dir) }
