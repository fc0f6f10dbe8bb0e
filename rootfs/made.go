package rootfs

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
)

// Default sizes of a root that is made, in bytes and inodes.
const (
	DefaultRootSize   = 256 << 20
	DefaultRootInodes = 65536
)

// Empty is a root of the container's own, for programs that need nothing beside them: a
// memory file system of [DefaultRootSize] bytes and [DefaultRootInodes] files at most,
// unless Size and Inodes say otherwise, with /proc, a minimal /dev, and the
// folders /tmp (mode 1777) and /run. container.WithFile, WithFiles, WithSymlink and
// mounts fill it.
//
// Root inside, to whom it belongs, can write anywhere in it, and what jobs write is
// memory of theirs. It ends with the container. With ReadOnly only /tmp and /run,
// which are file systems of their own then, and what is mounted, can be written to.
func Empty(opts ...RootOption) Root { return made(Root{Type: "empty"}, opts) }

// FS is a root as [Empty] makes it, filled with a copy of files (embed.FS, fstest.MapFS,
// os.DirFS) before the first job starts: regular files, folders, and links where it is
// an [fs.ReadLinkFS]. Anything else is refused by Start, as are names that are none, and
// more than the root may hold: each file counts whole pages.
//
// All belongs to root. Permissions are those that the file system tells, without
// set-user-ID, set-group-ID and sticky bits; 0444 for files and 0755 for folders where it
// tells none. An embed.FS tells 0444 for all files: [Executable] names the programs.
// Times of files are kept, and links lead where they say, inside the container.
//
// It is read by Start, and by Explain, in the caller's goroutine: a Read that hangs is not
// interrupted. An os.DirFS of a folder that others write to may be led out of it, or into
// a FIFO: os.Root's FS is not led out. A Root that was stored as JSON has no files any more, and is refused.
func FS(files fs.FS, opts ...RootOption) Root {
	r := Root{Type: "fs"}
	if files != nil {
		r.Source = fsSource{files}
	}
	return made(r, opts)
}

// Tar is a root as [Empty] makes it, filled from an archive, a file of the host at an
// absolute path, before the first job starts: tar(5) as GNU tar, BSD tar, docker export
// and Go write it, as it is or compressed by gzip.
//
// Files, folders, links, hard links and FIFOs are made with their modes and owners, files
// with their times. Device nodes below dev are left out, since /dev is the container's
// own, and so are extended attributes: set-user-ID bits and capabilities would not count
// here. Of two entries with one name the later one holds.
//
// Start refuses an archive that names "..", leads through a link or a file, links to what
// it does not hold, holds device nodes elsewhere, is cut off or is larger than the root
// may be. Slashes in front of names are left off; where links lead is settled inside the
// container. An owner that the container does not have is refused, too: [OwnedByRoot].
func Tar(path string, opts ...RootOption) Root { return made(Root{Type: "tar", Path: path}, opts) }

// TarAt is [Tar] of an archive that the program has: bytes.Reader, strings.Reader and
// os.File are such. It is read from its beginning, by Start and by Explain, perhaps by
// several goroutines. A Root that was stored as JSON has no archive any more, and is
// refused.
func TarAt(archive io.ReaderAt, opts ...RootOption) Root {
	r := Root{Type: "tar"}
	if archive != nil {
		r.Source = tarSource{archive}
	}
	return made(r, opts)
}

func made(r Root, opts []RootOption) Root {
	r.Size, r.Inodes = DefaultRootSize, DefaultRootInodes
	for _, o := range opts {
		o.applyRoot(&r)
	}
	return r
}

// Source is what a root is filled from: FS and TarAt make one.
type Source interface {
	fmt.Stringer
	source()
}

type fsSource struct{ files fs.FS }

func (fsSource) source()          {}
func (s fsSource) String() string { return fmt.Sprintf("%T", s.files) }

type tarSource struct{ archive io.ReaderAt }

func (tarSource) source()          {}
func (s tarSource) String() string { return fmt.Sprintf("%T", s.archive) }

// Executable gives the permission to execute to those files of [FS] whose names, without
// a slash in front, match one of the patterns of [path.Match]. A pattern that matches
// none is refused by Start.
func Executable(patterns ...string) RootOption {
	return rootFunc(func(r *Root) { r.Executables = append(slices.Clip(r.Executables), patterns...) })
}

// OwnedByRoot gives all that [Tar] makes to root, whoever its owners are in the archive.
func OwnedByRoot() RootOption { return rootFunc(func(r *Root) { r.OwnedByRoot = true }) }

// Made tells that the root is a memory file system of the container's own.
func (r Root) Made() bool { return r.Type == "empty" || r.Type == "fs" || r.Type == "tar" }

// leastInodes are those of the root itself and its own folders, and a few to mount on.
const leastInodes = 16

func (r Root) validateMade() error {
	_, files := r.Source.(fsSource)
	switch {
	case r.Writable:
		return fmt.Errorf("rootfs.Writable is for rootfs.Dir: this root is writable unless rootfs.ReadOnly is given")
	case r.EtcNames != nil:
		return fmt.Errorf("rootfs.Etc is for rootfs.Host")
	case r.IDMapped:
		return fmt.Errorf("rootfs.IDMapped is for files of the host: these belong to the container's users")
	case r.Upper != "" || r.Below != nil:
		return fmt.Errorf("rootfs.Upper and rootfs.Below are for rootfs.Overlay")
	case r.Size < 1:
		return fmt.Errorf("size %d: at least 1 byte", r.Size)
	case r.Inodes < leastInodes:
		return fmt.Errorf("%d inodes: at least %d", r.Inodes, leastInodes)
	case r.Type != "fs" && r.Executables != nil:
		return fmt.Errorf("rootfs.Executable is for rootfs.FS")
	case r.Type != "tar" && r.OwnedByRoot:
		return fmt.Errorf("rootfs.OwnedByRoot is for rootfs.Tar")
	case r.Type == "empty" && r.Source != nil, r.Type == "fs" && r.Source != nil && !files, r.Type == "tar" && files:
		return fmt.Errorf("a source of another type")
	case r.Type == "fs" && r.Source == nil:
		return fmt.Errorf("no file system: give rootfs.FS one, which JSON does not keep")
	case r.Type != "tar" && r.Path != "":
		return fmt.Errorf("a path is for rootfs.Dir and rootfs.Tar")
	case r.Type == "tar" && r.Source == nil && r.Path == "":
		return fmt.Errorf("no archive: give rootfs.Tar its path, or rootfs.TarAt a reader, which JSON does not keep")
	case r.Type == "tar" && r.Source != nil && r.Path != "":
		return fmt.Errorf("a path and a reader")
	case r.Type == "tar" && r.Source == nil:
		return validateHostPath(r.Path)
	}
	for _, p := range r.Executables {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("rootfs.Executable: %q: %w", p, err)
		}
	}
	return nil
}
