package container

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// checkBinds looks whether the main job can use what is bound for it: as root
// its ids are not the host's, and a folder of the host's root would be there and
// of no use.
func checkBinds(s *Spec, h *host) error {
	var errs []error
	for _, m := range s.Mounts {
		if m.Type != "bind" {
			continue
		}
		st, err := os.Stat(m.Source)
		if err != nil {
			errs = append(errs, &StartError{Phase: PhasePrepare, Op: "stat", Path: m.Source, Err: bare(err), Remedy: "the source of a bind must be there"})
			continue
		}
		if err := checkBind(&s.Job, h, m, st); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// The bits of a mode, of its owner, group or others.
const (
	mayRead   = 4
	mayWrite  = 2
	maySearch = 1
)

func checkBind(j *Job, h *host, m rootfs.Mount, st os.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || overrides(j) {
		return nil
	}
	want, lacks := uint32(mayRead), "read it"
	switch {
	case st.IsDir():
		want, lacks = maySearch, "enter it"
	case !st.Mode().IsRegular():
		return nil // a socket or a device: it knows itself who may use it
	}
	uid, gid := hostIDs(h, j.uid(), j.gid())
	if m.IDMapped && h.canMap() {
		uid, gid = j.uid(), j.gid() // whose files the mount shows
	}
	may := permission(sys, uid, gid, j, h)
	if may&want == want && !m.ReadOnly {
		want, lacks = want|mayWrite, "write there"
	}
	if may&want == want {
		return nil
	}
	// An access control list may give more than the mode tells.
	if n, err := unix.Getxattr(m.Source, "system.posix_acl_access", nil); err == nil && n > 0 {
		return nil
	}
	remedy := fmt.Sprintf("on this host the job is uid %d and gid %d, the source belongs to %d and %d with mode %#o: give it to the job by WithIDMaps, or widen its mode",
		uid, gid, sys.Uid, sys.Gid, sys.Mode&0o7777)
	if want&mayWrite != 0 {
		remedy += ", or bind it with rootfs.ReadOnly"
	}
	return &StartError{Phase: PhasePrepare, Op: "bind", Path: m.Source, Err: fmt.Errorf("the job could not %s: %w", lacks, unix.EACCES), Remedy: remedy}
}

// overrides tells that the job may do without permission.
func overrides(j *Job) bool {
	for _, c := range j.Capabilities {
		if c == "CAP_DAC_OVERRIDE" || c == "CAP_DAC_READ_SEARCH" || c == "CAP_FOWNER" || c == "CAP_SETUID" {
			return true
		}
	}
	return false
}

// hostIDs are a job's ids as the host sees them.
func hostIDs(h *host, uid, gid uint32) (hostUID, hostGID uint32) {
	if len(h.uids) == 0 {
		return uid, gid
	}
	hostUID, _ = namespace.ToHost(hostMaps(h.uids, h.outer), uid)
	hostGID, _ = namespace.ToHost(hostMaps(h.gids, h.outerGIDs), gid)
	return hostUID, hostGID
}

// permission is what the mode of a file gives to the job, as rwx bits.
func permission(st *syscall.Stat_t, uid, gid uint32, j *Job, h *host) uint32 {
	switch {
	case st.Uid == uid:
		return st.Mode >> 6 & 7
	case st.Gid == gid:
		return st.Mode >> 3 & 7
	}
	for _, g := range j.Groups {
		if _, hostGID := hostIDs(h, 0, g); hostGID == st.Gid {
			return st.Mode >> 3 & 7
		}
	}
	if !h.setgroups {
		// The user's own supplementary groups cannot be given up, and so they stay.
		if own, err := os.Getgroups(); err == nil {
			for _, g := range own {
				if uint32(g) == st.Gid {
					return st.Mode >> 3 & 7
				}
			}
		}
	}
	return st.Mode & 7
}
