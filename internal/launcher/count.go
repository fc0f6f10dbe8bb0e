package launcher

import "sync/atomic"

// counts are the launchers of this program so far.
var counts struct{ started, died atomic.Uint64 }

// Counts returns how many launchers this program has started, and how many of them
// have ended while it ran.
func Counts() (started, died uint64) { return counts.started.Load(), counts.died.Load() }
