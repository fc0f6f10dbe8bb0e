package container

import "github.com/inlay-dev/inlay/internal/plan"

// Sabotage has f change every plan of containers that are started from now on,
// before it is sent; nil ends it.
func Sabotage(f func(p *plan.Plan)) { sabotage = f }
