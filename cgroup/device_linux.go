package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// resolved names devices by their numbers.
func (l Limits) resolved() (Limits, error) {
	if len(l.IO) == 0 {
		return l, nil
	}
	l = l.clone()
	var errs []error
	for i := range l.IO {
		number, err := deviceOf(l.IO[i].Device)
		if err != nil {
			errs = append(errs, &Error{Op: "find the device of", Path: l.IO[i].Device, Err: err, Remedy: "name a disk: its number like 8:0, its file in /dev, or a path on a file system that lies on one"})
			continue
		}
		l.IO[i].Device = number
	}
	return l, errors.Join(errs...)
}

var number = regexp.MustCompile(`^[0-9]+:[0-9]+$`)

// deviceOf finds the whole disk for a number, a device file, or any path: then
// the disk of its file system.
func deviceOf(name string) (string, error) {
	if number.MatchString(name) {
		return wholeDisk(name)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return "", err
	}
	dev := st.Dev
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	}
	if unix.Major(dev) != 0 {
		return wholeDisk(fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)))
	}
	// btrfs, overlay and the like have a number of their own; their mount may name
	// the disk.
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(name))
	if err != nil {
		return "", err
	}
	best := ""
	length := -1
	for _, m := range mounts {
		if len(m.Mountpoint) > length {
			best, length = m.Source, len(m.Mountpoint)
		}
	}
	if err := unix.Stat(best, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", fmt.Errorf("its file system (%s) lies on no disk: %w", best, unix.ENODEV)
	}
	return wholeDisk(fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
}

// wholeDisk is the disk that a partition is a part of: limits are the disk's.
func wholeDisk(number string) (string, error) {
	dir, err := filepath.EvalSymlinks("/sys/dev/block/" + number)
	if err != nil {
		return "", fmt.Errorf("there is no block device %s: %w", number, unix.ENODEV)
	}
	if _, err := os.Stat(path.Join(dir, "partition")); err == nil {
		text, err := os.ReadFile(path.Join(path.Dir(dir), "dev"))
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(text)), nil
	}
	return number, nil
}

// usual are the devices that every container has: null, zero, full, random,
// urandom, tty, the terminals of devpts and their maker; and nodes of any may be
// made, which open nothing.
var usual = []string{
	"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm",
}

// setDevices allows what every container has and these, and nothing else.
func (g *Group) setDevices(rules []string) error {
	if len(rules) == 0 {
		return nil
	}
	_, p := g.t.find(controllerDevices)
	if p == nil {
		p = &g.t.places[g.t.unified]
		err := p.filterDevices(g.rel, append(usual[:len(usual):len(usual)], rules...))
		switch {
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
			return &LimitError{Field: "DeviceRules", Controller: controllerDevices, Reason: fmt.Sprintf("on cgroup v2 devices are limited by a BPF program, which the kernel refuses: %v", err), Remedy: "it takes CAP_BPF or CAP_SYS_ADMIN on the host", Err: err}
		case err != nil:
			return &Error{Op: "bpf", Path: filepath.Join(p.path, g.rel), Err: err}
		}
		return nil
	}
	file := path.Join(g.rel, "devices.deny")
	if err := p.write(file, "a"); err != nil {
		return &Error{Op: "write", Path: filepath.Join(p.path, file), Err: err}
	}
	file = path.Join(g.rel, "devices.allow")
	for _, r := range append(usual[:len(usual):len(usual)], rules...) {
		if err := p.write(file, r); err != nil {
			return &Error{Op: "write", Path: filepath.Join(p.path, file) + " " + r, Err: err}
		}
	}
	return nil
}
