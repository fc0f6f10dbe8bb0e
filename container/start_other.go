//go:build !linux

package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// running is nothing here: containers need Linux.
type running struct{}

// Process is one job of a container; see the Linux documentation.
type Process struct{}

var errPlatform = fmt.Errorf("inlay: containers need Linux: %w", errors.ErrUnsupported)

// Start returns an error that matches errors.ErrUnsupported.
func (c *Container) Start(context.Context) error { return errPlatform }

// Wait returns an error that matches errors.ErrUnsupported.
func (c *Container) Wait(context.Context) (*Result, error) { return nil, errPlatform }

// Exec returns an error that matches errors.ErrUnsupported.
func (c *Container) Exec(context.Context, ...JobOption) (*Process, error) { return nil, errPlatform }

// Signal returns an error that matches errors.ErrUnsupported.
func (c *Container) Signal(os.Signal) error { return errPlatform }

// Kill returns an error that matches errors.ErrUnsupported.
func (c *Container) Kill() error { return errPlatform }

// Stop returns an error that matches errors.ErrUnsupported.
func (c *Container) Stop(context.Context) error { return errPlatform }

// Close ends a container that never ran.
func (c *Container) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != StateClosed {
		c.state = StateClosed
		close(c.done)
	}
	return nil
}

// PID returns 0.
func (c *Container) PID() int { return 0 }

// Explain returns an error that matches errors.ErrUnsupported.
func (c *Container) Explain(io.Writer) error { return errPlatform }

func (c *Container) begin(context.Context) (*Process, error) { return nil, errPlatform }

func (c *Container) runOnce(context.Context) (*Result, error) { return nil, errPlatform }

// Wait returns an error that matches errors.ErrUnsupported.
func (p *Process) Wait(context.Context) (*Result, error) { return nil, errPlatform }

// Done returns a channel that never closes.
func (p *Process) Done() <-chan struct{} { return nil }

// Signal returns an error that matches errors.ErrUnsupported.
func (p *Process) Signal(os.Signal) error { return errPlatform }

// Kill returns an error that matches errors.ErrUnsupported.
func (p *Process) Kill() error { return errPlatform }

func (p *Process) cancel(error) error { return errPlatform }

func (p *Process) giveUp() {}

// PID returns 0.
func (p *Process) PID() int { return 0 }

// Trace returns nil.
func (p *Process) Trace() []StepTime { return nil }

func (r *running) isPaused() bool { return false }

// Terminal returns nil.
func (c *Container) Terminal() *os.File { return nil }

// Terminal returns nil.
func (p *Process) Terminal() *os.File { return nil }

// Resize returns an error that matches errors.ErrUnsupported.
func (c *Container) Resize(int, int) error { return errPlatform }

// Resize returns an error that matches errors.ErrUnsupported.
func (p *Process) Resize(int, int) error { return errPlatform }

// Stats returns an error that matches errors.ErrUnsupported.
func (c *Container) Stats(context.Context) (*Stats, error) { return nil, errPlatform }

// Stats returns an error that matches errors.ErrUnsupported.
func (p *Process) Stats(context.Context) (*Stats, error) { return nil, errPlatform }

// Pause returns an error that matches errors.ErrUnsupported.
func (c *Container) Pause(context.Context) error { return errPlatform }

// Resume returns an error that matches errors.ErrUnsupported.
func (c *Container) Resume(context.Context) error { return errPlatform }

// Update returns an error that matches errors.ErrUnsupported.
func (c *Container) Update(context.Context, ...Option) error { return errPlatform }
