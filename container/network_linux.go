package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/netdriver"
	"github.com/inlay-dev/inlay/namespace"
)

// openNetwork has the driver take what the container needs before it is made.
func (r *running) openNetwork(ctx context.Context) error {
	s := &r.c.spec
	if j := s.joins(namespace.Network); j != nil && j.of != nil {
		// Names are looked up as in the other.
		if o, err := j.of.started(); err == nil && o.network != nil {
			r.host.resolv, r.host.hosts = o.network.Files()
			r.host.named = true
			return r.refuseNetAdminOf(o)
		}
	}
	n := s.Network
	if n == nil {
		return nil
	}
	start := &netdriver.Start{
		Kind: n.Kind, Config: n.Config, Hostname: s.hostname(), StateDir: launcher.DefaultStateDir(),
		NetAdmin: slices.Contains(s.Job.Capabilities, "CAP_NET_ADMIN"), RawPackets: slices.Contains(s.Job.Capabilities, "CAP_NET_RAW"),
	}
	if s.Bandwidth != nil {
		start.Rate = s.Bandwidth.driver()
	}
	err := r.mayConnect(ctx, start)
	if start.Userns != nil {
		defer start.Userns.Close() //nolint:errcheck // only read
	}
	if err == nil {
		r.network, err = netdriver.Registered().Begin(ctx, start)
	}
	var e *netdriver.Error
	if start.Rate != nil && errors.As(err, &e) && e.Limit && s.Job.optional("WithBandwidth") {
		r.drop("WithBandwidth", e.Err.Error())
		start.Rate = nil
		r.network, err = netdriver.Registered().Begin(ctx, start)
	}
	if err != nil {
		if errors.Is(err, errors.ErrUnsupported) && s.Job.optional("WithNetwork") {
			r.drop("WithNetwork", err.Error())
			return nil
		}
		return networkError(err)
	}
	r.host.resolv, r.host.hosts = r.network.Files()
	r.host.named = true
	r.c.mu.Lock()
	r.c.addresses = r.network.Addresses()
	r.c.mu.Unlock()
	return nil
}

// mayConnect finds what gives this program power over links: its capabilities, or the
// launcher's user namespace, in which the kernel removes them with the last process.
func (r *running) mayConnect(ctx context.Context, start *netdriver.Start) (err error) {
	switch {
	case launcher.OwnsNetwork():
		if r.launcher.User { // it has no power over this network
			return nil
		}
		// Of a program that is killed the kernel removes no bridge, no table and no ifb.
		err := r.launcher.Bequeath(ctx, func() ([]string, string, error) { return netdriver.Registered().Heir(start.StateDir) })
		if err != nil {
			return &netdriver.Error{Op: "hold", Path: "network", Err: bare(err)}
		}
		return nil
	case r.launcher.User:
		start.Userns, err = r.launcher.Userns()
		if err != nil {
			return &netdriver.Error{Op: "open", Path: "/proc/<launcher>/ns/user", Err: bare(err), Remedy: "/proc must show this program's own children"}
		}
		r.annex = true
		return nil
	}
	return &netdriver.Error{
		Op: "WithNetwork", Path: r.c.spec.Network.Kind,
		Err:    fmt.Errorf("links on the host are made by who has CAP_NET_ADMIN and CAP_SYS_ADMIN: %w: %w", unix.EPERM, errors.ErrUnsupported),
		Remedy: "run as root, or leave the container with lo alone: network.None()",
	}
}

func (r *Rate) driver() *netdriver.Rate {
	return &netdriver.Rate{Egress: r.Egress, Ingress: r.Ingress, Burst: r.Burst, EgressPackets: r.EgressPackets, IngressPackets: r.IngressPackets}
}

// connect gives the container its link, when its init is there.
func (r *running) connect(ctx context.Context) error {
	if r.network == nil {
		return nil
	}
	if err := r.init.Spawned(ctx); err != nil {
		return r.planError(err)
	}
	ns, err := r.networkNamespace(ctx)
	if err != nil {
		return err
	}
	err = r.network.Connect(ctx, ns)
	err = errors.Join(err, ns.Close())
	if err != nil {
		if r.init.Ended() {
			return r.whyEnded(ctx, networkError(err))
		}
		return networkError(err)
	}
	return nil
}

// networkNamespace opens init's. As root that is while init makes its mounts. A user's
// init shows its namespaces to nobody, and opens this one itself, when that is done.
func (r *running) networkNamespace(ctx context.Context) (*os.File, error) {
	if !r.annex {
		ns, err := r.init.Network()
		if err != nil && r.init.Ended() {
			return nil, r.whyEnded(ctx, err)
		}
		if err != nil {
			return nil, &StartError{Phase: PhaseParent, Op: "open", Path: "/proc/<init>/ns/net", Err: bare(err), Remedy: "/proc must show this program's own children"}
		}
		return ns, nil
	}
	fd, err := r.init.OpenNamespace(ctx, "net")
	if err != nil {
		if r.init.Ended() {
			return nil, r.whyEnded(ctx, err)
		}
		return nil, &StartError{Phase: PhaseChild, Op: "open", Path: "/proc/self/ns/net", Err: bare(err)}
	}
	return os.NewFile(uintptr(fd), "net:[init]"), nil
}

// whyEnded is why init has ended, or else the error: a failed plan comes first.
func (r *running) whyEnded(ctx context.Context, err error) error {
	select {
	case <-r.init.Done():
	case <-ctx.Done():
	}
	if why := r.init.Ready(ctx); why != nil {
		return r.planError(why)
	}
	return err
}

// networkError turns what a driver says into a StartError, or a LimitError.
func networkError(err error) error {
	var e *netdriver.Error
	if !errors.As(err, &e) {
		return &StartError{Phase: PhasePrepare, Op: "WithNetwork", Err: err}
	}
	if e.Limit {
		return &LimitError{Option: "WithBandwidth", Reason: e.Op + " " + e.Path + ": " + e.Err.Error(), Remedy: e.Remedy}
	}
	return &StartError{Phase: PhasePrepare, Op: e.Op, Path: e.Path, Err: e.Err, Remedy: e.Remedy}
}

// disconnect takes the link away.
func (r *running) disconnect() error {
	if r.network == nil {
		return nil
	}
	return r.network.Close()
}

// networkStats are the figures of the container's link; nil: it has none.
func (r *running) networkStats() (*NetworkStats, error) {
	if r.network == nil {
		return nil, nil
	}
	n, err := r.network.Counters()
	if err != nil {
		return nil, networkError(err)
	}
	return &NetworkStats{Egress: NetworkCounter(n.Egress), Ingress: NetworkCounter(n.Ingress)}, nil
}

// updateRate changes the rate of a running container.
func (r *running) updateRate(ctx context.Context, rate *Rate) error {
	if rate == nil {
		return nil
	}
	select {
	case <-r.started:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if r.network == nil { // Optional went without
		return &LimitError{Option: "WithBandwidth", Reason: "the container has no link: see Container.Dropped", Remedy: "see container.Probe"}
	}
	if err := r.network.SetRate(*rate.driver()); err != nil {
		return networkError(err)
	}
	return nil
}

// refuseNetAdminOf refuses a container that joins another's network, and its user
// namespace with the power over it, with a capability to take the other's rate away.
func (r *running) refuseNetAdminOf(o *running) error {
	s := &r.c.spec
	if s.joins(namespace.User) == nil && !s.hostUser() || !o.network.ShapedInside() || !slices.Contains(s.Job.Capabilities, "CAP_NET_ADMIN") {
		return nil
	}
	return &StartError{
		Phase: PhasePrepare, Op: "WithCapabilities", Path: "CAP_NET_ADMIN", Err: fmt.Errorf("the job could take the other container's bandwidth limit away: %w", unix.EPERM),
		Remedy: "leave the capability out, or the other's user namespace",
	}
}

// refuseNetAdmin refuses a job that could take away a rate that is kept on the
// container's own link.
func (r *running) refuseNetAdmin(j *Job) error {
	if r.network == nil || !r.network.ShapedInside() || !slices.Contains(j.Capabilities, "CAP_NET_ADMIN") {
		return nil
	}
	return &OptionError{
		Option: "WithCapabilities", Value: "CAP_NET_ADMIN", Reason: "the job could take the container's bandwidth limit away",
		Remedy: "give the main job CAP_NET_ADMIN too: then the limit is kept on the host's end",
	}
}
