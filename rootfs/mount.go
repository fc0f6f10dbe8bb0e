package rootfs

import (
	"fmt"
	"path"
	"strings"
)

// Default sizes of memory file systems, in bytes and inodes.
const (
	DefaultTmpfsSize   = 256 << 20
	DefaultTmpfsInodes = 65536
)

// Mount is one mount of a container, as data. Bind and Tmpfs make one.
type Mount struct {
	// Type is "bind" or "tmpfs".
	Type string `json:"type"`
	// Source is the file or folder of the host that a bind shows.
	Source string `json:"source,omitempty"`
	// Target is where it shows, inside. It is made if the root allows.
	Target string `json:"target"`
	// ReadOnly makes a bind read-only, with all that is mounted below it.
	ReadOnly bool `json:"read_only,omitempty"`
	// NoExec refuses to execute programs from it.
	NoExec bool `json:"no_exec,omitempty"`
	// Size is a tmpfs's limit in bytes, Inodes in files and folders; a bind's too,
	// where not 0.
	Size   int64 `json:"size,omitempty"`
	Inodes int64 `json:"inodes,omitempty"`
	// Mode is the permission of a tmpfs's own folder.
	Mode uint32 `json:"mode,omitempty"`
}

// MountOption changes what Bind and Tmpfs make.
type MountOption func(*Mount)

// Bind shows a file or folder of the host at target, with everything that is
// mounted below it: writable, unless ReadOnly is given, and always without
// set-user-id programs and devices. Flags that a mount below it has (noexec,
// read-only) stay.
func Bind(source, target string, opts ...MountOption) Mount {
	m := Mount{Type: "bind", Source: source, Target: target}
	for _, o := range opts {
		o(&m)
	}
	return m
}

// Tmpfs is an empty, writable memory file system, [DefaultTmpfsSize] bytes and
// [DefaultTmpfsInodes] files at most unless Size and Inodes say otherwise, mode
// 1777 unless Mode does.
func Tmpfs(target string, opts ...MountOption) Mount {
	m := Mount{Type: "tmpfs", Target: target, Size: DefaultTmpfsSize, Inodes: DefaultTmpfsInodes, Mode: 0o1777}
	for _, o := range opts {
		o(&m)
	}
	return m
}

// ReadOnly makes a bind read-only.
func ReadOnly() MountOption { return func(m *Mount) { m.ReadOnly = true } }

// NoExec refuses to execute programs from the mount.
func NoExec() MountOption { return func(m *Mount) { m.NoExec = true } }

// Size limits a tmpfs to n bytes; the kernel rounds up to whole pages. At least 1.
//
// It limits what a writable bind of a folder holds, too: by a project quota of the
// disk, ext4's or XFS's mounted with prjquota, while the container is there. The
// folder must be empty, or have a project of its own, which all folders in it hand
// on (chattr -p and +P), and whose files then all count. It needs root, Linux 5.14
// and a user namespace. Writes beyond it fail with EDQUOT. Where there is no such
// quota the container does not start, unless WithMounts is Optional. What is
// mounted below the folder is not in it. A host program that is killed leaves the
// budget on the folder, until another container with a budget has used it.
func Size(n int64) MountOption { return func(m *Mount) { m.Size = n } }

// Inodes limits a tmpfs to n files and folders, its own folder among them: at
// least 2. For a bind it is as Size, without the folder itself: at least 1.
func Inodes(n int64) MountOption { return func(m *Mount) { m.Inodes = n } }

// Mode sets the permission of a tmpfs's own folder.
func Mode(mode uint32) MountOption { return func(m *Mount) { m.Mode = mode } }

// Budget tells of a bind that it has a limit on what it holds.
func (m Mount) Budget() bool { return m.Type == "bind" && (m.Size != 0 || m.Inodes != 0) }

// Validate tells what is wrong with the mount, without looking at the host.
func (m Mount) Validate() error {
	if err := ValidateInside(m.Target); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if path.Clean(m.Target) == "/" {
		return fmt.Errorf("target \"/\": the root is set by WithRoot")
	}
	switch m.Type {
	case "bind":
		if err := validateHostPath(m.Source); err != nil {
			return fmt.Errorf("source: %w", err)
		}
		switch {
		case m.Mode != 0:
			return fmt.Errorf("a mode is for a tmpfs, not for a bind")
		case m.Size < 0:
			return fmt.Errorf("size %d: at least 1 byte", m.Size)
		case m.Inodes < 0:
			return fmt.Errorf("%d inodes: at least 1", m.Inodes)
		case m.Budget() && m.ReadOnly:
			return fmt.Errorf("a size or inodes for what is read-only")
		}
	case "tmpfs":
		switch {
		case m.Source != "":
			return fmt.Errorf("a tmpfs has no source")
		case m.ReadOnly:
			return fmt.Errorf("a read-only tmpfs would be empty for good")
		case m.Size < 1:
			return fmt.Errorf("size %d: at least 1 byte", m.Size)
		case m.Inodes < 2:
			return fmt.Errorf("%d inodes: at least 2", m.Inodes)
		case m.Mode&^0o7777 != 0:
			return fmt.Errorf("mode %#o: at most 07777", m.Mode)
		}
	default:
		return fmt.Errorf("type %q: use rootfs.Bind or rootfs.Tmpfs", m.Type)
	}
	return nil
}

// File is one file that is written into the container before its first job
// starts. It belongs to root inside.
type File struct {
	Path string `json:"path"`
	Data []byte `json:"data"`
	Mode uint32 `json:"mode"`
}

// MaxFile is how large one such file may be, in bytes.
const MaxFile = 16 << 20

// Validate tells what is wrong with the file.
func (f File) Validate() error {
	if err := ValidateInside(f.Path); err != nil {
		return err
	}
	if strings.HasSuffix(f.Path, "/") || strings.HasSuffix(f.Path, "/.") {
		return fmt.Errorf("path %q names a folder", f.Path)
	}
	if len(f.Data) > MaxFile {
		return fmt.Errorf("%d bytes, at most %d: mount larger files", len(f.Data), MaxFile)
	}
	if f.Mode&^0o777 != 0 {
		return fmt.Errorf("mode %#o: at most 0777", f.Mode)
	}
	return nil
}
