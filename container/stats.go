package container

import (
	"context"
	"iter"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
)

// Absent stands in a figure of Stats that the host cannot give.
const Absent = cgroup.Absent

// Watch yields the container's figures now and after every interval, until it has
// ended, when it yields the last ones, or until the context ends. An error, which
// Stats would return, is yielded and ends it.
func (c *Container) Watch(ctx context.Context, interval time.Duration) iter.Seq2[*Stats, error] {
	return func(yield func(*Stats, error) bool) {
		t := time.NewTicker(max(interval, time.Millisecond))
		defer t.Stop()
		for {
			s, err := c.Stats(ctx)
			if !yield(s, err) || err != nil {
				return
			}
			select {
			case <-t.C:
			case <-c.Done():
				if s, err := c.Stats(ctx); err == nil {
					yield(s, nil)
				}
				return
			case <-ctx.Done():
				return
			}
		}
	}
}
