package container

import (
	"path/filepath"
	"time"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/plan"
)

// Sabotage has f change every plan of containers that are started from now on,
// before it is sent; nil ends it.
func Sabotage(f func(p *plan.Plan)) { sabotage = f }

// CloseTimeout bounds Close, until the function that it returns is called.
func CloseTimeout(d time.Duration) (restore func()) {
	before := closeTimeout
	closeTimeout = d
	return func() { closeTimeout = before }
}

// Fault has operations on the host asked for by f; nil ends it.
func Fault(f func(op, path string) error) {
	if f == nil {
		fault.Hook.Store(nil)
		return
	}
	fault.Hook.Store(&f)
}

// GroupAhead names the group that was made for the next job; "": there is none.
func GroupAhead(c *Container) string {
	g := c.run.groups
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ahead == nil {
		return ""
	}
	return filepath.Base(g.ahead.group.Path())
}

// GroupOf names the group of a job of Exec.
func GroupOf(p *Process) string { return filepath.Base(p.group.Path()) }
