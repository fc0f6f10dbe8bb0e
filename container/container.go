package container

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// State is where a container is in its life.
type State string

// The states, in their order.
const (
	StateCreated State = "created" // New made it
	StateRunning State = "running" // from Start on
	StatePaused  State = "paused"  // by Pause
	StateStopped State = "stopped" // the main job has ended; files stay until Close
	StateClosed  State = "closed"
)

// Container is one run of a main job, or of an init that waits for Exec. New
// makes it; all methods may be called from many goroutines at once.
type Container struct {
	spec Spec

	mu      sync.Mutex
	state   State
	dropped []Dropped
	run     *running // from Start on
	done    chan struct{}
	doneErr error
	last    *Stats // at the end
	events  eventLog
	trace   []StepTime // of the start, once it is over

	addresses []netip.Prefix // in its network, from Start on
}

// New checks the request and reports every fault of it, as [*OptionError]s joined
// by errors.Join. It does nothing else: no process, no file, no look at the host.
func New(opts ...Option) (*Container, error) {
	var s Spec
	for _, o := range present(opts) {
		o.applyContainer(&s)
	}
	return fromSpec(s)
}

func fromSpec(s Spec) (*Container, error) {
	if s.ID == "" {
		s.ID = randomID()
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	c := &Container{spec: s, state: StateCreated, done: make(chan struct{})}
	c.events.container, c.events.labels, c.events.journal = s.ID, s.Labels, newJournal(&s)
	return c, nil
}

// journal is where the container's log goes.
func (c *Container) journal() *journal { return c.events.journal }

func randomID() string {
	b := make([]byte, 6)
	if _, err := rand.Read(b); err != nil {
		panic("inlay: bug: " + err.Error()) // crypto/rand never fails
	}
	return hex.EncodeToString(b)
}

// FromSpec makes a container of a [Spec], as New does of options: for requests
// that were stored. The Spec is copied.
func FromSpec(s Spec) (*Container, error) { return fromSpec(s.clone()) }

// ID returns the container's name: of WithID, or random.
func (c *Container) ID() string { return c.spec.ID }

// Spec returns a copy of all that was asked for.
func (c *Container) Spec() Spec { return c.spec.clone() }

func (s *Spec) clone() Spec {
	out := *s
	out.Labels = maps.Clone(s.Labels)
	out.Sysctls = maps.Clone(s.Sysctls)
	out.Mounts = slices.Clone(s.Mounts)
	out.Files = slices.Clone(s.Files)
	out.Symlinks = slices.Clone(s.Symlinks)
	out.Devices = slices.Clone(s.Devices)
	out.Join = slices.Clone(s.Join)
	out.Namespaces = slices.Clone(s.Namespaces)
	out.HostNamespaces = slices.Clone(s.HostNamespaces)
	out.UIDMaps = slices.Clone(s.UIDMaps)
	out.GIDMaps = slices.Clone(s.GIDMaps)
	if s.Network != nil {
		n := *s.Network
		n.Config = slices.Clone(n.Config)
		out.Network = &n
	}
	if s.Bandwidth != nil {
		rate := *s.Bandwidth
		out.Bandwidth = &rate
	}
	out.Job = s.Job.clone()
	return out
}

func (j *Job) clone() Job {
	out := *j
	out.Command = slices.Clone(j.Command)
	out.Env = slices.Clone(j.Env)
	out.Groups = slices.Clone(j.Groups)
	out.GroupNames = slices.Clone(j.GroupNames)
	out.Rlimits = slices.Clone(j.Rlimits)
	out.Capabilities = slices.Clone(j.Capabilities)
	out.Securebits = slices.Clone(j.Securebits)
	out.Optional = slices.Clone(j.Optional)
	out.ExtraFiles = slices.Clone(j.ExtraFiles)
	return out
}

// State returns where the container is in its life.
func (c *Container) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == StateRunning && c.run.isPaused() {
		return StatePaused
	}
	return c.state
}

// Done is closed when the main job has ended and its output is copied, or, for a
// container without one, when it was closed or killed. It stays open for a
// container that was never started.
func (c *Container) Done() <-chan struct{} { return c.done }

// Dropped returns what the container runs without: defaults that this host does
// not have, and options wrapped in [Optional]. It is complete after Start.
func (c *Container) Dropped() []Dropped {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.dropped)
}

// Run starts the command in a container of its own, waits for it and closes
// everything. A job that fails is no error: err is not nil where inlay could not
// do what was asked, and then there is no Result.
//
// When the context ends first, the job is killed (or stopped, with
// [WithStopOnCancel]), Status is Canceled and err is nil; res.Err() matches
// context.Cause.
func Run(ctx context.Context, opts ...Option) (*Result, error) {
	c, err := New(append(slices.Clip(opts), Option(unseenTerminal()))...)
	if err != nil {
		return nil, err
	}
	if len(c.spec.Job.Command) == 0 {
		return nil, &OptionError{Option: "WithCommand", Value: "", Reason: "missing: Run needs a command"}
	}
	return c.runOnce(ctx)
}

// String returns the ID and the state.
func (c *Container) String() string { return fmt.Sprintf("container %s (%s)", c.ID(), c.State()) }
