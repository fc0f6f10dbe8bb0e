package containertest

import (
	"context"
	"testing"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
)

// Groups opens the control group below which containers have theirs here, to ask
// it for controllers; nil where they have none. Nothing may be made below it: it may
// be systemd's. It is closed after the test.
func Groups(t testing.TB) *cgroup.Group {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	top, err := cgroup.ScopeParent(ctx)
	if err != nil {
		top, err = cgroup.Nearest()
	}
	if err != nil {
		t.Log(err)
		return nil
	}
	t.Cleanup(func() {
		if err := top.Close(); err != nil {
			t.Error(err)
		}
	})
	return top
}
