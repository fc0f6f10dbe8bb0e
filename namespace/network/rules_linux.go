package network

import (
	"errors"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
)

// rules is the way to the kernel's rules while there is a bridge. One socket is kept for
// all changes: in close(2) of such a one the kernel waits, ten milliseconds, until what
// was removed is freed, and lets nobody else change rules meanwhile.
var rules struct {
	sync.Mutex
	users int
	conn  *nftables.Conn // nil: none is open
}

// holdRules lets that socket stay open until releaseRules.
func holdRules() {
	rules.Lock()
	defer rules.Unlock()
	rules.users++
}

func releaseRules() error {
	rules.Lock()
	defer rules.Unlock()
	rules.users--
	if rules.users > 0 {
		return nil
	}
	return closeRules()
}

// closeRules closes it, with the lock.
func closeRules() error {
	c := rules.conn
	rules.conn = nil
	if c == nil {
		return nil
	}
	if err := c.CloseLasting(); err != nil {
		return fail("close", "nft", err, "")
	}
	return nil
}

// transact sends changes of the rules as one: all of them happen, or none.
func transact(path string, change func(c *nftables.Conn)) (err error) {
	rules.Lock()
	defer rules.Unlock()
	if rules.conn == nil {
		if rules.conn, err = nftables.New(nftables.AsLasting()); err != nil {
			return fail("nft", path, err, remedyNetlink)
		}
	}
	err = send(rules.conn, path, change)
	if err != nil || rules.users == 0 {
		// What answers an error has left is for nobody's next change.
		err = errors.Join(err, closeRules())
	}
	return err
}

func send(c *nftables.Conn, path string, change func(c *nftables.Conn)) error {
	if err := fault.At("nft", path); err != nil {
		return fail("nft", path, err, "")
	}
	change(c)
	if err := c.Flush(); err != nil {
		return fail("nft", path, err, remedyNetlink)
	}
	return nil
}

// anew is the change that makes a table anew.
func anew(t *nftables.Table, fill func(c *nftables.Conn, t *nftables.Table)) func(c *nftables.Conn) {
	return func(c *nftables.Conn) {
		c.AddTable(t) // so that there is one to delete
		c.DelTable(t)
		c.AddTable(t)
		fill(c, t)
	}
}

// replaceTable makes a table anew.
func replaceTable(t *nftables.Table, fill func(c *nftables.Conn, t *nftables.Table)) error {
	return transact(t.Name, anew(t, fill))
}

// tryTable makes one in the network namespace of the caller's thread, which the socket
// that is kept is not of.
func tryTable(t *nftables.Table, fill func(c *nftables.Conn, t *nftables.Table)) error {
	c, err := nftables.New()
	if err != nil {
		return fail("nft", t.Name, err, remedyNetlink)
	}
	return send(c, t.Name, anew(t, fill))
}

func deleteTable(name string) error {
	return dropTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
}

func dropTable(t *nftables.Table) error {
	err := transact(t.Name, func(c *nftables.Conn) { c.DelTable(t) })
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
