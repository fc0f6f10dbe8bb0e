package rootfs

import "io/fs"

// ChangeKind is what became of a file.
type ChangeKind string

// The kinds of changes.
const (
	Added   ChangeKind = "added"
	Changed ChangeKind = "changed" // its contents, its mode or what kind of file it is
	Removed ChangeKind = "removed"
)

// Change is one file or folder that a container's jobs changed.
type Change struct {
	// Path is where it is inside the container.
	Path string `json:"path"`
	// Kind is what became of it. A file that was opened for writing counts as changed.
	Kind ChangeKind `json:"kind"`
	// Mode is its type and permissions now; 0 of one that was removed.
	Mode fs.FileMode `json:"mode,omitempty"`
	// Size is that of a regular file, in bytes.
	Size int64 `json:"size,omitempty"`
}

// String is the change as docker diff prints it: "A /new", "C /etc/motd", "D /gone".
func (c Change) String() string {
	letter := map[ChangeKind]string{Added: "A", Changed: "C", Removed: "D"}[c.Kind]
	if letter == "" {
		letter = "?"
	}
	return letter + " " + c.Path
}
