package container

import (
	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/plan"
)

// Sabotage has f change every plan of containers that are started from now on,
// before it is sent; nil ends it.
func Sabotage(f func(p *plan.Plan)) { sabotage = f }

// Fault has operations on the host asked for by f; nil ends it.
func Fault(f func(op, path string) error) {
	if f == nil {
		fault.Hook.Store(nil)
		return
	}
	fault.Hook.Store(&f)
}
