package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/containerd/console"

	"github.com/inlay-dev/inlay/container"
)

// attached is container.Run for a job with a terminal. With input, what is typed here
// goes to it as it is: this program's own terminal, if stdin is one, is raw meanwhile.
func attached(input bool) func(ctx context.Context, opts ...container.Option) (*container.Result, error) {
	return func(ctx context.Context, opts ...container.Option) (res *container.Result, err error) {
		own := ownTerminal()
		rows, cols := own.size()
		c, err := container.New(append(opts, container.WithTerminal(rows, cols))...)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer own.onSignals(cancel)()
		if input {
			if err := own.raw(); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, own.restore()) }() // last, and by a panic too
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		if err := c.Start(ctx); err != nil {
			return nil, err
		}
		defer context.AfterFunc(ctx, func() { _ = c.Kill() })()                 // it may have ended: then that is that
		defer own.onResize(func(rows, cols int) { _ = c.Resize(rows, cols) })() // the same
		return c.Wait(context.Background())
	}
}

// terminal is this program's own; the zero one is none.
type terminal struct {
	in, any console.Console // stdin; that, or else stdout
	once    sync.Once
	err     error
}

func ownTerminal() *terminal {
	t := &terminal{}
	if c, err := console.ConsoleFromFile(os.Stdin); err == nil {
		t.in, t.any = c, c
	} else if c, err := console.ConsoleFromFile(os.Stdout); err == nil {
		t.any = c
	}
	return t
}

// size is 0, 0 where nobody knows it.
func (t *terminal) size() (rows, cols int) {
	if t.any == nil {
		return 0, 0
	}
	s, err := t.any.Size()
	if err != nil {
		return 0, 0
	}
	return int(s.Height), int(s.Width)
}

func (t *terminal) raw() error {
	if t.in == nil {
		return nil
	}
	if err := t.in.SetRaw(); err != nil {
		return err
	}
	return clearONLCR(t.in.Fd()) // the job's terminal has made CR LF of its lines
}

// restore makes the terminal what it was. It may be called more than once.
func (t *terminal) restore() error {
	t.once.Do(func() {
		if t.in != nil {
			t.err = t.in.Reset()
		}
	})
	return t.err
}

// onSignals calls end when somebody wants this program to end; the second time it ends
// at once, with the terminal restored. Nobody types these: raw, ^C is the job's.
func (t *terminal) onSignals(end func()) (stop func()) {
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		if _, ok := <-c; !ok {
			return
		}
		end()
		if s, ok := <-c; ok {
			_ = t.restore() // what could be told of it is of no use any more
			number, _ := s.(syscall.Signal)
			os.Exit(128 + int(number))
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}

// onResize calls f with the terminal's size now and whenever that changes.
func (t *terminal) onResize(f func(rows, cols int)) (stop func()) {
	if t.any == nil || len(resized) == 0 {
		return func() {}
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, resized...)
	go func() {
		for ok := true; ok; _, ok = <-c {
			f(t.size())
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}
