package network

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/internal/launcher"
)

// Hold makes the bridge of a network, if it is not there, and keeps it until Close: for
// programs that start one container after another, each of which would make it and
// remove it again, in some tens of milliseconds. For any other network it does nothing.
//
// The error is as Start's; as there, nothing is left then.
func Hold(ctx context.Context, n container.Network) (io.Closer, error) {
	if n.Kind != "bridge" {
		return nop{}, nil
	}
	if faults := (driver{}).Check(n.Kind, n.Config); len(faults) > 0 {
		var errs []error
		for _, f := range faults {
			errs = append(errs, &container.OptionError{Option: f.Option, Value: f.Value, Reason: f.Reason, Remedy: f.Remedy})
		}
		return nil, errors.Join(errs...)
	}
	c, err := parse(n.Config)
	if err != nil {
		return nil, err
	}
	if !launcher.OwnsNetwork() && launcher.NeedsUser() {
		return holdAsUser(ctx, c)
	}
	b, err := holdBridge(ctx, c, launcher.DefaultStateDir())
	if err != nil {
		return nil, startError(err)
	}
	return &hold{release: func() error { return b.leave(nil) }}, nil
}

// holdBridge uses a bridge.
func holdBridge(ctx context.Context, c *config, stateDir string) (*bridge, error) {
	b, err := useBridge(ctx, c, stateDir)
	if err != nil {
		return nil, err
	}
	if err := b.check(c); err != nil {
		return nil, errors.Join(err, b.leave(nil))
	}
	return b, nil
}

// holdAsUser holds a bridge where a user has them.
func holdAsUser(ctx context.Context, c *config) (io.Closer, error) {
	l, err := launcher.Acquire(ctx)
	if err != nil {
		return nil, startError(fail("start", "launcher", err, ""))
	}
	defer l.Release()
	userns, err := l.Userns()
	if err != nil {
		return nil, startError(fail("open", "/proc/<launcher>/ns/user", err, "/proc must show this program's own children"))
	}
	held, err := holdInAnnex(ctx, c, userns, launcher.DefaultStateDir())
	if err = errors.Join(err, userns.Close()); err != nil {
		if held != nil {
			err = errors.Join(err, held.Close())
		}
		return nil, startError(err)
	}
	return &hold{release: held.Close}, nil
}

type nop struct{}

func (nop) Close() error { return nil }

type hold struct {
	release func() error
	once    sync.Once
	err     error
}

// Close lets the bridge go: it is removed where no container uses it.
func (h *hold) Close() error {
	h.once.Do(func() { h.err = h.release() })
	return h.err
}
