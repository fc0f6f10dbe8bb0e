package rootfs

import (
	"fmt"
	"path"
	"strings"
)

// Root says what a container's / is. It is data: it can be compared, printed and
// stored as JSON. The zero value is not valid; Host, Dir, Overlay, Empty, FS and Tar make one.
type Root struct {
	// Type is "host", "dir", "overlay", "empty", "fs" or "tar".
	Type string `json:"type"`
	// Path is the folder of a "dir", the uppermost of an "overlay" that jobs do not
	// change, or the archive of a "tar".
	Path string `json:"path,omitempty"`
	// Below are further folders of an "overlay", each below the one before.
	Below []string `json:"below,omitempty"`
	// Upper is the folder that keeps what jobs change in an "overlay"; empty: nothing
	// keeps it.
	Upper string `json:"upper,omitempty"`
	// Size is how many bytes an "overlay" without Upper, an "empty", "fs" or "tar" takes at
	// most, Inodes how many files and folders.
	Size   int64 `json:"size,omitempty"`
	Inodes int64 `json:"inodes,omitempty"`
	// IDMapped makes a writable "dir" belong to the container's users, see [IDMapped].
	IDMapped bool `json:"id_mapped,omitempty"`
	// Writable lets jobs change the folder of a "dir".
	Writable bool `json:"writable,omitempty"`
	// EtcNames narrows the /etc of a "host" to these names; nil is all that is
	// not on the deny list.
	EtcNames []string `json:"etc_names,omitempty"`

	// ReadOnly keeps jobs from writing to an "empty", "fs" or "tar".
	ReadOnly bool `json:"read_only,omitempty"`
	// Executables are patterns for the programs of an "fs".
	Executables []string `json:"executables,omitempty"`
	// OwnedByRoot gives the files of a "tar" to root.
	OwnedByRoot bool `json:"owned_by_root,omitempty"`
	// Source is the file system of an "fs", or the archive of a "tar" without a path.
	Source Source `json:"-"`
}

// RootOption changes what the makers of a Root make.
type RootOption interface{ applyRoot(*Root) }

// MountOption changes what the makers of mounts make.
type MountOption interface{ applyMount(*Mount) }

// Option is for roots and mounts alike.
type Option interface {
	RootOption
	MountOption
}

type (
	rootFunc  func(*Root)
	mountFunc func(*Mount)
	bothFuncs struct {
		rootFunc
		mountFunc
	}
)

func (f rootFunc) applyRoot(r *Root)    { f(r) }
func (f mountFunc) applyMount(m *Mount) { f(m) }

// Host is a read-only view of this machine's programs: /usr (and /nix/store and
// /gnu/store) as they are, the links beside it (bin → usr/bin), an /etc with
// what an ordinary user may read less [EtcDenied], sized memory file systems on
// /tmp, /run and /dev/shm, a minimal /dev and a /proc of the container's own. No
// /sys, no /home, no /root, no /var.
//
// /etc/passwd, group, hosts, hostname, nsswitch.conf and resolv.conf are
// replaced where the host has them.
//
// The rest of /etc is the host's own, not a copy: a denied or replaced name
// that is put anew on the host while the container runs (a rename over it, as
// vipw(8) does it) shows the new file until the container's end, as far as an
// ordinary user may read it. Etc narrows the /etc to names that do not change.
func Host(opts ...RootOption) Root {
	r := Root{Type: "host"}
	for _, o := range opts {
		o.applyRoot(&r)
	}
	return r
}

// Dir is a folder of the host as it is, with a /proc, a /dev, and (unless it is
// writable) sized memory file systems on /tmp and /run. The folder must have
// proc and dev in it; it is read-only with everything mounted below it, unless
// Writable is given.
//
// As root the container's ids are not the host's. Where the folder's owner is none
// of the container's users, its files show inside with the ids that they have on
// the disk, 0 to 65534, and belong to the container's users of these ids: root's to
// root. The host's own / is left out of that, and so is a folder on a file system
// that the kernel cannot show so (idmapped mounts, mount_setattr(2)); there they
// belong to nobody.
func Dir(path string, opts ...RootOption) Root {
	r := Root{Type: "dir", Path: path}
	for _, o := range opts {
		o.applyRoot(&r)
	}
	return r
}

// Writable lets jobs change the folder of [Dir], on the host, for good. As root
// the container's ids are not the host's: the folder must belong to ids of the
// container (see container.WithIDMaps), or Start refuses; or [IDMapped] is given.
func Writable() RootOption { return rootFunc(func(r *Root) { r.Writable = true }) }

// IDMapped has files of a writable bind, or of a writable [Dir], belong to the
// container's users whose ids, 0 to 65534, they have on the disk; what a job makes as
// user 0 inside belongs to the host's root, set-user-ID bits included. So keep the
// folder where no other user of the host can reach it. A read-only bind shows its
// files so and gives nothing away but what root alone may read.
//
// It takes root, a user namespace and a file system that the kernel can map
// (mount_setattr(2): ext4, XFS, Btrfs and others since Linux 5.12, tmpfs since 6.3);
// else Start refuses. For a user's own containers there is nothing to map: the
// user's own files are root's inside.
func IDMapped() Option {
	return bothFuncs{func(r *Root) { r.IDMapped = true }, func(m *Mount) { m.IDMapped = true }}
}

// Etc narrows the /etc of [Host] to the named files and folders, each a single
// name without a slash.
func Etc(names ...string) RootOption {
	return rootFunc(func(r *Root) { r.EtcNames = append([]string{}, names...) })
}

// Validate tells what is wrong with the root, without looking at the host.
func (r Root) Validate() error {
	if r.Made() {
		return r.validateMade()
	}
	if r.ReadOnly || r.Executables != nil || r.OwnedByRoot || r.Source != nil {
		return fmt.Errorf("rootfs.ReadOnly, Executable and OwnedByRoot are for rootfs.Empty, FS and Tar")
	}
	switch r.Type {
	case "host":
		if r.Path != "" || r.Writable || r.IDMapped || r.Size != 0 || r.Inodes != 0 || r.Upper != "" || r.Below != nil {
			return fmt.Errorf("the host's root has no path and is never writable: use rootfs.Dir or rootfs.Overlay")
		}
		for _, n := range r.EtcNames {
			if n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00") {
				return fmt.Errorf("rootfs.Etc: %q is not a single name", n)
			}
		}
		return nil
	case "dir":
		if r.EtcNames != nil {
			return fmt.Errorf("rootfs.Etc is for rootfs.Host")
		}
		if r.Size != 0 || r.Inodes != 0 || r.Upper != "" || r.Below != nil {
			return fmt.Errorf("an upper folder, its size, and folders below are for rootfs.Overlay")
		}
		if r.IDMapped && !r.Writable {
			return fmt.Errorf("rootfs.IDMapped is for rootfs.Writable: what is read-only is mapped without it")
		}
		return validateHostPath(r.Path)
	case "overlay":
		return r.validateOverlay()
	}
	return fmt.Errorf("type %q: use rootfs.Host, Dir, Overlay, Empty, FS or Tar", r.Type)
}

func validateHostPath(p string) error {
	switch {
	case p == "":
		return fmt.Errorf("empty path")
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("path %q holds a NUL byte", p)
	case !path.IsAbs(p):
		return fmt.Errorf("path %q is relative: make it absolute, filepath.Abs does", p)
	case len(p) > 4095:
		return fmt.Errorf("path of %d bytes, at most 4095", len(p))
	}
	for _, c := range strings.Split(p, "/") {
		if c == ".." {
			return fmt.Errorf("path %q holds \"..\": clean it first, so that what is checked is what is used", p)
		}
		if len(c) > 255 {
			return fmt.Errorf("path with a name of %d bytes, at most 255", len(c))
		}
	}
	return nil
}

// ValidateInside tells what is wrong with a path inside a container.
func ValidateInside(p string) error {
	if p != "" && !strings.HasPrefix(p, "/") {
		return fmt.Errorf("path %q is relative: inside a container it begins with /", p)
	}
	return validateHostPath(p)
}
