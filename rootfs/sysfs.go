package rootfs

import (
	"fmt"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Sysfs shows sysfs(5) at /sys, read-only: the machine's devices, as programs read them
// that ask for processors, memory or disks, and of networks those of the container alone.
// What OCI masks in it (firmware, power meters) is covered.
//
// It tells a job what machine it runs on, and with it the host's other containers what
// they share. It takes a network namespace of the container's own, which New asks for,
// and a host whose own /sys is whole: in a container whose /sys is partly covered, or
// missing, the kernel refuses it, and so does Start.
func Sysfs() Mount { return Mount{Type: "sysfs", Target: "/sys", ReadOnly: true} }

// SysMasked are the folders of sysfs that OCI masks, where this host has them.
func SysMasked() []string { return existing("/sys/", sysMasked) }

var sysMasked = []string{"firmware", "devices/virtual/powercap"}

func (m Mount) validateSysfs() error {
	switch {
	case m.Source != "" || m.Size != 0 || m.Inodes != 0 || m.Mode != 0 || m.Suid || m.NoExec:
		return fmt.Errorf("sysfs has no source, size, inodes, mode and flags")
	case !m.ReadOnly:
		return fmt.Errorf("sysfs is read-only")
	}
	return nil
}

// sysfs mounts a /sys of the container's own. The old root must still be there, as for
// /proc.
func (b *Build) sysfs(at string) {
	const hint = "the kernel gives sysfs to who owns a new network namespace, and only where the host's own /sys is there and not partly covered"
	c := b.Child
	b.folder(at)
	fs := c.Fsopen("sysfs", "sysfs fs")
	c.Hint("sysfs", hint)
	c.FsconfigCreate(fs, "sysfs")
	c.Hint("sysfs", hint)
	const attrs = basicAttrs | plan.AttrReadOnly | plan.AttrNoExec
	m := c.Fsmount(fs, attrs, "/"+at, "sysfs")
	c.Hint("/"+at, hint)
	b.attach(c, m, at, "sysfs is mounted on a folder that exists, or can be made")
	for _, n := range b.SysMasked {
		_, t := tmpfs(c, "mask", 4096, 2, 0o555, attrs)
		c.MoveMount(t, m.At(), n, 0)
		c.Hint("/"+at+"/"+n, "")
	}
}
