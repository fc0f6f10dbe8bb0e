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
	b, err := useBridge(ctx, c, launcher.DefaultStateDir())
	if err == nil {
		if err = b.check(c); err != nil {
			err = errors.Join(err, b.leave(nil))
		}
	}
	if err != nil {
		return nil, startError(err)
	}
	return &hold{b: b}, nil
}

type nop struct{}

func (nop) Close() error { return nil }

type hold struct {
	b    *bridge
	once sync.Once
	err  error
}

// Close lets the bridge go: it is removed where no container uses it.
func (h *hold) Close() error {
	h.once.Do(func() { h.err = h.b.leave(nil) })
	return h.err
}
