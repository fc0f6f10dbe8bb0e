package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/internal/netdriver"
)

// startError is what a driver says, as container.Start reports it.
func startError(err error) error {
	var e *netdriver.Error
	if !errors.As(err, &e) {
		return err
	}
	return &container.StartError{Phase: container.PhasePrepare, Op: e.Op, Path: e.Path, Err: e.Err, Remedy: e.Remedy}
}

// Prune is netdriver.Driver's: links, tables and bridges by their names and the bridge's
// own address, where nobody holds the lock that belongs to them, and lock files in which
// nobody has any.
func (driver) Prune(ctx context.Context, stateDir string) (removed []string, kept map[string]error) {
	p := &pruning{kept: map[string]error{}}
	if err := onHost(func() error { return p.all(ctx, stateDir) }); err != nil {
		p.kept["network"] = err
	}
	return p.removed, p.kept
}

type pruning struct {
	l       *locks
	h       *netlink.Handle
	removed []string
	kept    map[string]error
}

func (p *pruning) done(what string, err error) {
	switch {
	case err == nil:
		p.removed = append(p.removed, what)
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT): // it went by itself
	default:
		p.kept[what] = err
	}
}

func (p *pruning) all(ctx context.Context, stateDir string) error {
	p.otherFiles(stateDir)
	var err error
	if p.l, err = openLocks(ctx, stateDir); err != nil {
		return err
	}
	if p.h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return errors.Join(err, p.l.close())
	}
	err = errors.Join(p.links(), p.tables())
	p.h.Close()
	return errors.Join(err, p.l.close())
}

// free tells that nobody has a number of a bridge, 0 for the bridge itself. With byte 0
// locked nobody takes a bridge that has no users; of one that has, numbers are taken
// meanwhile, before links are made: so the lock is held while they are removed.
func (p *pruning) free(slot, n uint32) bool {
	return p.l.set(unix.F_WRLCK, base(slot)+int64(n), 1) == nil
}

func (p *pruning) release(slot, n uint32) {
	_ = p.l.set(unix.F_UNLCK, base(slot)+int64(n), 1) // it goes with the file in any case
}

func (p *pruning) links() error {
	list, err := p.h.LinkList()
	if err != nil {
		return err
	}
	for _, l := range list {
		name := l.Attrs().Name
		s, n, ok := parseLink(name)
		switch {
		case ok && (l.Type() == "veth" || l.Type() == "ifb"):
		case l.Type() == "bridge" && bytes.Equal(l.Attrs().HardwareAddr, ownMAC(name)):
			s, n = slot(name), 0
		default:
			continue
		}
		if p.free(s, n) {
			p.done("link "+name, p.h.LinkDel(l))
			p.release(s, n)
		}
	}
	return nil
}

// parseLink reads what linkName and ifbName write.
func parseLink(name string) (slot, n uint32, ok bool) {
	if len(name) < 9 || name[:2] != "il" && name[:2] != "if" {
		return 0, 0, false
	}
	if k, err := fmt.Sscanf(name[2:], "%05x-%x", &slot, &n); err != nil || k != 2 {
		return 0, 0, false
	}
	return slot, n, name == linkName(slot, n) || name == ifbName(slot, n)
}

func (p *pruning) tables() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	list, err := c.ListTables()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EPERM) {
		return nil // no nf_tables here, or no power over them: no tables of ours
	}
	if err != nil {
		return err
	}
	for _, t := range list {
		rest, ours := strings.CutPrefix(t.Name, "inlay-")
		if !ours || t.Family != nftables.TableFamilyINet && t.Family != nftables.TableFamilyNetdev && t.Family != nftables.TableFamilyBridge {
			continue
		}
		bridge, number, owned := strings.Cut(rest, "/")
		n := uint32(0)
		if owned {
			if k, err := fmt.Sscanf(number, "%x", &n); err != nil || k != 1 || n == 0 {
				continue
			}
		}
		if s := slot(bridge); p.free(s, n) {
			p.done("table "+t.Name, transact(t.Name, func(c *nftables.Conn) { c.DelTable(t) }))
			p.release(s, n)
		}
	}
	return nil
}

// otherFiles removes lock files of other network namespaces in which nobody has a lock:
// those of namespaces that are gone, and of programs there that were killed.
func (p *pruning) otherFiles(dir string) {
	own, err := lockPath(dir)
	if err != nil {
		p.kept[dir] = err
		return
	}
	files, err := lockFiles(dir)
	if err != nil {
		p.kept[dir] = err
		return
	}
	for _, path := range files {
		if path == own {
			continue
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			p.done(path, err)
			continue
		}
		l := &locks{file: os.NewFile(uintptr(fd), path)}
		if l.set(unix.F_WRLCK, 0, 0) == nil { // all of it
			p.done(path, os.Remove(path))
		}
		if err := l.file.Close(); err != nil {
			p.kept[path] = err
		}
	}
}
