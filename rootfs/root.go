package rootfs

import (
	"fmt"
	"path"
	"strings"
)

// Root says what a container's / is. It is data: it can be compared, printed and
// stored as JSON. The zero value is not valid; Host and Dir make one.
type Root struct {
	// Type is "host" or "dir".
	Type string `json:"type"`
	// Path is the folder of a "dir".
	Path string `json:"path,omitempty"`
	// Writable lets jobs change the folder of a "dir".
	Writable bool `json:"writable,omitempty"`
	// EtcNames narrows the /etc of a "host" to these names; nil is all that is
	// not on the deny list.
	EtcNames []string `json:"etc_names,omitempty"`
}

// RootOption changes what Host and Dir make.
type RootOption func(*Root)

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
		o(&r)
	}
	return r
}

// Dir is a folder of the host as it is, with a /proc, a /dev, and (unless it is
// writable) sized memory file systems on /tmp and /run. The folder must have
// proc and dev in it; it is read-only with everything mounted below it, unless
// Writable is given.
func Dir(path string, opts ...RootOption) Root {
	r := Root{Type: "dir", Path: path}
	for _, o := range opts {
		o(&r)
	}
	return r
}

// Writable lets jobs change the folder of [Dir], on the host, for good. As root
// the container's ids are not the host's: the folder must belong to ids of the
// container (see container.WithIDMaps), or Start refuses.
func Writable() RootOption { return func(r *Root) { r.Writable = true } }

// Etc narrows the /etc of [Host] to the named files and folders, each a single
// name without a slash.
func Etc(names ...string) RootOption {
	return func(r *Root) { r.EtcNames = append([]string{}, names...) }
}

// Validate tells what is wrong with the root, without looking at the host.
func (r Root) Validate() error {
	switch r.Type {
	case "host":
		if r.Path != "" || r.Writable {
			return fmt.Errorf("the host's root has no path and is never writable: use rootfs.Dir")
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
		return validateHostPath(r.Path)
	}
	return fmt.Errorf("type %q: use rootfs.Host or rootfs.Dir", r.Type)
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
