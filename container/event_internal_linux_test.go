package container

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A limit that is met before Exec has returned is told after the job's beginning, and
// that of a start which gave up is told as well.
func TestEventsInOrder(t *testing.T) {
	for _, end := range []string{"begins", "gives up"} {
		t.Run(end, func(t *testing.T) {
			c := &Container{events: eventLog{journal: &journal{}}}
			p := newProcess(&running{c: c}, &Job{})
			require.True(t, p.note(TimeLimit))
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			for e := range c.Events(ctx) {
				t.Error("too early:", e.Kind)
			}
			want := []EventKind{EventExec, EventLimit, EventLimit}
			if end == "begins" {
				p.announce()
			} else {
				p.abort()
				want = want[1:]
			}
			require.True(t, p.note(OutputLimit))
			var have []EventKind
			for e := range c.Events(ctx) {
				have = append(have, e.Kind)
				require.False(t, e.Time.IsZero())
			}
			require.Equal(t, want, have)
		})
	}
}
