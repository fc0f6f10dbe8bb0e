package container

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/rootfs"
)

// node looks what a device is.
func node(path string) (n rootfs.Node, st unix.Stat_t, err error) {
	if err = fault.At("stat", path); err == nil {
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return n, st, err
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFCHR && t != unix.S_IFBLK {
		return n, st, unix.ENODEV
	}
	return rootfs.Node{Mode: st.Mode, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}, st, nil
}

// nodes looks what the devices are that are there.
func nodes(s *Spec) map[string]rootfs.Node {
	found := map[string]rootfs.Node{}
	for _, d := range s.Devices {
		if n, _, err := node(d.Source); err == nil {
			found[d.Source] = n
		}
	}
	return found
}

// lookDevices looks whether the devices are some.
func (r *running) lookDevices() error {
	s := &r.c.spec
	var errs []error
	r.nodes = map[string]rootfs.Node{}
	for _, d := range s.Devices {
		n, _, err := node(d.Source)
		var mount unix.Statfs_t
		if err == nil {
			err = unix.Statfs(d.Source, &mount)
		}
		const stNodev = 0x4
		switch {
		case err == nil && mount.Flags&stNodev != 0:
			errs = append(errs, &StartError{Phase: PhasePrepare, Op: "statfs", Path: d.Source, Err: unix.EACCES, Remedy: "it lies on a mount without devices (nodev), where none can be opened"})
		case err == nil:
			r.nodes[d.Source] = n
		case errors.Is(err, unix.ENODEV):
			errs = append(errs, &StartError{Phase: PhasePrepare, Op: "stat", Path: d.Source, Err: err, Remedy: "WithDevice needs a character or block device; WithMounts shows other files"})
		case s.Job.optional("WithDevice") && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)):
			r.drop("WithDevice", d.Source+" is not there")
		default:
			errs = append(errs, &StartError{Phase: PhasePrepare, Op: "stat", Path: d.Source, Err: err, Remedy: "WithDevice needs a device that is there"})
		}
	}
	if r.host != nil {
		r.host.nodes = r.nodes
	}
	return errors.Join(errs...)
}

// checkDevices looks whether the main job can use the devices: one that it cannot open
// would be there and of no use.
func checkDevices(s *Spec, h *host) error {
	var errs []error
	uid, gid := hostIDs(h, s.Job.uid(), s.Job.gid())
	for _, d := range s.devices(h) {
		_, st, err := node(d.Source)
		if err != nil {
			errs = append(errs, &StartError{Phase: PhasePrepare, Op: "stat", Path: d.Source, Err: err})
			continue
		}
		want := uint32(0)
		for letter, bit := range map[string]uint32{"r": mayRead, "w": mayWrite} {
			if d.Access == "" || strings.Contains(d.Access, letter) {
				want |= bit
			}
		}
		owned := &syscall.Stat_t{Mode: st.Mode, Uid: st.Uid, Gid: st.Gid}
		if overrides(&s.Job) || permission(owned, uid, gid, &s.Job, h)&want != 0 {
			continue
		}
		if n, err := unix.Getxattr(d.Source, "system.posix_acl_access", nil); err == nil && n > 0 {
			continue
		}
		errs = append(errs, &StartError{
			Phase: PhasePrepare, Op: "open", Path: d.Source, Err: fmt.Errorf("the job could not use it: %w", unix.EACCES),
			Remedy: fmt.Sprintf("on this host the job is uid %d and gid %d, the device belongs to %d and %d with mode %#o: widen its mode, or give it to the job by WithIDMaps",
				uid, gid, st.Uid, st.Gid, st.Mode&0o7777),
		})
	}
	return errors.Join(errs...)
}
