//go:build !linux

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var errPlatform = fmt.Errorf("cgroup: control groups are Linux's: %w", errors.ErrUnsupported)

// Group is one control group; on this operating system there are none, and every
// function that makes one returns an error that matches errors.ErrUnsupported.
type Group struct{}

// Entry is what a process enters a group by.
type Entry struct {
	Dir   int
	Tasks []int
}

// Close does nothing.
func (e *Entry) Close() {}

// Open returns an error that matches errors.ErrUnsupported; so do all below.
func Open(string) (*Group, error) { return nil, errPlatform }

// Nearest is not there.
func Nearest() (*Group, error) { return nil, errPlatform }

// Prepare is not there.
func Prepare() (restore func() error, err error) { return func() error { return nil }, errPlatform }

// RemoveLeftover is not there.
func RemoveLeftover(context.Context, string, string) error { return errPlatform }

// Close is not there.
func (g *Group) Close() error { return errPlatform }

// Path is not there.
func (g *Group) Path() string { return "" }

// Paths is not there.
func (g *Group) Paths() []string { return nil }

// Missing is not there.
func (g *Group) Missing(*Limits) []*LimitError { return nil }

// Create is not there.
func (g *Group) Create(string, Limits) (*Group, error) { return nil, errPlatform }

// Update is not there.
func (g *Group) Update(context.Context, Limits) error { return errPlatform }

// Delete is not there.
func (g *Group) Delete(context.Context) error { return errPlatform }

// Enter is not there.
func (g *Group) Enter() (*Entry, error) { return nil, errPlatform }

// Let is not there.
func (g *Group) Let(int) error { return errPlatform }

// Add is not there.
func (g *Group) Add(int) error { return errPlatform }

// Processes is not there.
func (g *Group) Processes() ([]int, error) { return nil, errPlatform }

// Populated is not there.
func (g *Group) Populated() (bool, error) { return false, errPlatform }

// WaitEmpty is not there.
func (g *Group) WaitEmpty(context.Context) error { return errPlatform }

// Kill is not there.
func (g *Group) Kill(context.Context) error { return errPlatform }

// Freeze is not there.
func (g *Group) Freeze(context.Context) error { return errPlatform }

// Thaw is not there.
func (g *Group) Thaw(context.Context) error { return errPlatform }

// Frozen is not there.
func (g *Group) Frozen() (bool, error) { return false, errPlatform }

// OOM is not there.
func (g *Group) OOM() (int, error) { return -1, errPlatform }

// Stats is not there.
func (g *Group) Stats() (*Stats, error) { return nil, errPlatform }

// CPUTime is not there.
func (g *Group) CPUTime() time.Duration { return Absent }

// OOMKills is not there.
func (g *Group) OOMKills() (kills int64, own bool) { return 0, false }

// MemoryNow is not there.
func (g *Group) MemoryNow() (now, anon int64) { return Absent, Absent }

// Has is not there.
func (g *Group) Has(string) bool { return false }

// Final is not there.
func (g *Group) Final() *Stats { return &Stats{} }

// OwnOOM is never.
func (s *Stats) OwnOOM() bool { return false }

// Uncap is not there.
func (g *Group) Uncap() {}
