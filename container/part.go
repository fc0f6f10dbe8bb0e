package container

import "github.com/inlay-dev/inlay/rootfs"

// Mount shows a file or folder of this container to others, read-only and without a copy:
// as a mount for [WithMounts] at dst. What is mounted below path comes with it, also read-only;
// what is covered here is covered there.
//
// It is the file itself: what this container's jobs change in it afterwards the others
// see, and it lives as long as one of them, also after this container's Close. A link in
// path is followed inside this container. Its owners keep their ids on the host: as root
// each container has ids of its own, so that the files belong to 65534 in another, whose
// jobs read what all may read; an unprivileged user's containers have the same ids.
//
// It looks at nothing. Start of the other container asks this one, which must have
// started and not be closed: else it is a [*StartError] that matches ErrNotStarted,
// ErrClosed or ErrEnded; as is a path that is not there, and what is no file of the
// container's: all of its root, anything of a root with rootfs.Upper, /dev, /proc, /sys, devices, FIFOs and sockets.
//
// Of a folder FIFOs and sockets show as well, and to write to a FIFO or to connect to a
// socket does not change a file: jobs of both containers can talk by those, and hand each
// other open files. As root the ids of a closed container are given to others, whose jobs
// are then the owners of what it left in other containers.
func (c *Container) Mount(path, dst string) rootfs.Mount {
	return rootfs.Mount{Type: "container", Source: path, Target: dst, ReadOnly: true, Origin: origin{c}}
}

// origin is a container that others have parts of.
type origin struct{ c *Container }

func (o origin) String() string { return o.c.String() }
