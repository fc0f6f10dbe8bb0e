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

// Mount is one mount of a container, as data. Bind, Tmpfs and Sysfs make one.
type Mount struct {
	// Type is "bind", "tmpfs", "workspace", "sysfs" or "container".
	Type string `json:"type"`
	// Source is the file or folder of the host that a bind shows, the folder of a
	// workspace, or the file or folder of the container that a "container" shows.
	Source string `json:"source,omitempty"`
	// Target is where it shows, inside. It is made if the root allows.
	Target string `json:"target"`
	// ReadOnly makes a bind read-only, with all that is mounted below it.
	ReadOnly bool `json:"read_only,omitempty"`
	// NoExec refuses to execute programs from it.
	NoExec bool `json:"no_exec,omitempty"`
	// Suid lets set-user-ID and set-group-ID bits and file capabilities on it count.
	Suid bool `json:"suid,omitempty"`
	// Size is a tmpfs's limit in bytes, Inodes in files and folders; a bind's too,
	// where not 0.
	Size   int64 `json:"size,omitempty"`
	Inodes int64 `json:"inodes,omitempty"`
	// Mode is the permission of a tmpfs's own folder.
	Mode uint32 `json:"mode,omitempty"`
	// IDMapped has a bind's files belong to the container's users, see [IDMapped].
	IDMapped bool `json:"id_mapped,omitempty"`
	// Staged keeps what jobs change in a workspace apart from the folder, see [Staged].
	Staged bool `json:"staged,omitempty"`
	// Origin is the container of a "container".
	Origin Origin `json:"-"`
}

// Bind shows a file or folder of the host at target, with everything that is
// mounted below it: writable, unless ReadOnly is given, and always without
// devices, and without set-user-ID programs unless Suid is given. Flags that a mount below it has (noexec,
// read-only) stay.
func Bind(source, target string, opts ...MountOption) Mount {
	m := Mount{Type: "bind", Source: source, Target: target}
	for _, o := range opts {
		o.applyMount(&m)
	}
	return m
}

// Tmpfs is an empty, writable memory file system, [DefaultTmpfsSize] bytes and
// [DefaultTmpfsInodes] files at most unless Size and Inodes say otherwise, mode
// 1777 unless Mode does.
func Tmpfs(target string, opts ...MountOption) Mount {
	m := Mount{Type: "tmpfs", Target: target, Size: DefaultTmpfsSize, Inodes: DefaultTmpfsInodes, Mode: 0o1777}
	for _, o := range opts {
		o.applyMount(&m)
	}
	return m
}

// ReadOnly makes a bind read-only, or what [Empty], [FS] and [Tar] make once it is
// filled: then /tmp and /run are memory file systems of their own, as in [Host].
func ReadOnly() Option {
	return bothFuncs{func(r *Root) { r.ReadOnly = true }, func(m *Mount) { m.ReadOnly = true }}
}

// NoExec refuses to execute programs from the mount.
func NoExec() MountOption { return mountFunc(func(m *Mount) { m.NoExec = true }) }

// Suid lets programs on the mount that are set-user-ID, set-group-ID or have file
// capabilities act as such, for jobs with container.WithNoNewPrivileges(false). The
// ids on them count as the container's own: a program of the host's root is nobody's
// where the container has a user namespace that does not map it. Without it the
// mount is nosuid, as all others are.
func Suid() MountOption { return mountFunc(func(m *Mount) { m.Suid = true }) }

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
//
// For an [Overlay] or a staged [Workspace] it is what jobs may change, in bytes:
// [DefaultTmpfsSize] without it. For [Empty], [FS] and [Tar] it is all that the root
// may hold, what it is filled with included: [DefaultRootSize] without it.
func Size(n int64) Option {
	return bothFuncs{func(r *Root) { r.Size = n }, func(m *Mount) { m.Size = n }}
}

// Inodes limits a tmpfs to n files and folders, its own folder among them: at
// least 2. For a bind it is as Size, without the folder itself: at least 1.
// For an [Overlay] or a staged [Workspace] it is [DefaultTmpfsInodes] without it. For
// [Empty], [FS] and [Tar] it is at least 16: [DefaultRootInodes] without it.
func Inodes(n int64) Option {
	return bothFuncs{func(r *Root) { r.Inodes = n }, func(m *Mount) { m.Inodes = n }}
}

// Mode sets the permission of a tmpfs's own folder.
func Mode(mode uint32) MountOption { return mountFunc(func(m *Mount) { m.Mode = mode }) }

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
	if m.Origin != nil && m.Type != "container" {
		return fmt.Errorf("an origin is for what container.Container.Mount makes")
	}
	switch m.Type {
	case "container":
		return m.validatePart()
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
		case m.Staged:
			return fmt.Errorf("rootfs.Staged is for rootfs.Workspace")
		}
	case "tmpfs":
		switch {
		case m.Source != "":
			return fmt.Errorf("a tmpfs has no source")
		case m.Staged || m.IDMapped:
			return fmt.Errorf("a tmpfs belongs to the container's users anyway")
		case m.ReadOnly:
			return fmt.Errorf("a read-only tmpfs would be empty for good")
		case m.Size < 1:
			return fmt.Errorf("size %d: at least 1 byte", m.Size)
		case m.Inodes < 2:
			return fmt.Errorf("%d inodes: at least 2", m.Inodes)
		case m.Mode&^0o7777 != 0:
			return fmt.Errorf("mode %#o: at most 07777", m.Mode)
		}
	case "workspace":
		return m.validateWorkspace()
	case "sysfs":
		return m.validateSysfs()
	default:
		return fmt.Errorf("type %q: use rootfs.Bind, Tmpfs, Workspace or Sysfs, or Container.Mount", m.Type)
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
