package network_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/namespace/network"
)

// state is all that the network has on this host: links, addresses, routes, queues,
// tables and lock files. What a start or a container must not leave is in it.
func state(t testing.TB) []string {
	t.Helper()
	var out []string
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // one came or went meanwhile
		links, err = netlink.LinkList()
	}
	require.NoError(t, err)
	for _, l := range links {
		out = append(out, "link "+l.Attrs().Name)
		addrs, err := netlink.AddrList(l, unix.AF_UNSPEC)
		if err == nil { // else it went just now
			for _, a := range addrs {
				if a.IP.IsLinkLocalUnicast() { // the kernel's own, in its own time
					continue
				}
				out = append(out, "address "+a.IPNet.String()+" of "+l.Attrs().Name)
			}
		}
	}
	c, err := nftables.New()
	require.NoError(t, err)
	tables, err := c.ListTables()
	require.NoError(t, err)
	for _, table := range tables {
		out = append(out, "table "+table.Name)
	}
	var st unix.Stat_t
	require.NoError(t, unix.Stat("/proc/self/ns/net", &st))
	names, err := filepath.Glob(fmt.Sprintf("/run/inlay/net-%d", st.Ino))
	require.NoError(t, err)
	return append(out, names...)
}

// eventually looks again and again, for what nothing tells of, until f says nothing more.
func eventually(t testing.TB, f func() string) {
	t.Helper()
	ctx := timeout(t)
	for {
		why := f()
		if why == "" {
			return
		}
		_, _ = unix.Poll(nil, 5)
		if ctx.Err() != nil {
			t.Fatal(why)
		}
	}
}

// asBefore waits until the host is as before: links go in the kernel's own time.
func asBefore(t testing.TB, before []string) {
	t.Helper()
	eventually(t, func() string {
		if now := state(t); strings.Join(now, "\n") != strings.Join(before, "\n") {
			return fmt.Sprintf("before %q, now %q", before, now)
		}
		return ""
	})
}

func everything() container.Network {
	return network.Bridge("every", network.Open(), network.DenyAll(), network.Publish(network.Port{Host: 8100, Container: 80}, network.Port{Protocol: "udp", Host: 8100, Container: 53}))
}

// inEveryWay has a job use all that the driver makes for a link.
func inEveryWay(n container.Network) []container.Option {
	return []container.Option{
		container.WithCommand("true"), container.WithNetwork(n), container.WithBandwidth(container.Rate{Egress: 1e6, Ingress: 1e6, EgressPackets: 1e5, IngressPackets: 1e5}),
		container.WithCapabilities("CAP_NET_ADMIN", "CAP_NET_RAW"),
	}
}

// Whichever operation on the host's side fails, the start says so and the host is as
// it was.
func TestFailureAtEachOperation(t *testing.T) {
	needHost(t)
	defer fault.Hook.Store(nil)
	failed := map[string]bool{}
	for _, n := range []container.Network{everything(), network.Veth("every", network.DenyAll(), network.Publish(network.Port{Host: 8100, Container: 80}))} {
		t.Run(n.Kind, func(t *testing.T) { failEach(t, n, failed) })
	}
	for _, op := range operations {
		require.True(t, failed[op], op)
	}
}

// failEach has each operation fail once, and remembers them by their names.
func failEach(t *testing.T, network container.Network, failed map[string]bool) {
	t.Helper()
	before := state(t)
	opts := inEveryWay(network)
	_, err := container.Run(timeout(t), opts...)
	require.NoError(t, err)
	asBefore(t, before)
	for n := 0; ; n++ {
		var mu sync.Mutex
		count, which := 0, ""
		hook := func(op, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			if !ours(op) {
				return nil
			}
			if count++; count == n+1 {
				which = op
				return unix.EBADMSG
			}
			return nil
		}
		fault.Hook.Store(&hook)
		res, err := container.Run(timeout(t), opts...)
		fault.Hook.Store(nil)
		if which == "" {
			require.NoError(t, err)
			require.True(t, res.Success())
			break
		}
		require.ErrorIs(t, err, unix.EBADMSG, "%d: %s", n, which)
		failed[which] = true
		// What was to be removed and could not is left for Prune.
		_, err = container.Prune(timeout(t))
		require.NoError(t, err)
		asBefore(t, before)
	}
}

// children are the processes that one has made, by whichever of its threads.
func children(t testing.TB, of int) (out []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", of))
	require.NoError(t, err)
	for _, f := range lists {
		text, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // a thread that has ended
		}
		require.NoError(t, err)
		for _, n := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(n)
			require.NoError(t, err)
			out = append(out, pid)
		}
	}
	return out
}

// Whoever is killed at whichever operation on the host's side, the start ends and the host
// is as it was.
func TestDeathsAtEachOperation(t *testing.T) {
	needHost(t)
	before := state(t)
	opts := inEveryWay(everything())
	for _, who := range []string{"init", "launcher"} {
		t.Run(who, func(t *testing.T) {
			failures := 0
			for n := 0; ; n++ {
				l, err := launcher.Acquire(timeout(t))
				require.NoError(t, err)
				var mu sync.Mutex
				count, killed := 0, false
				hook := func(op, _ string) error {
					mu.Lock()
					defer mu.Unlock()
					if !ours(op) {
						return nil
					}
					if count++; count != n+1 {
						return nil
					}
					victims := []int{l.PID()}
					if who == "init" {
						victims = children(t, l.PID()) // none has been reaped: the numbers are theirs
					}
					killed = true
					for _, pid := range victims {
						if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
							t.Errorf("kill %d: %v", pid, err)
						}
					}
					return nil
				}
				fault.Hook.Store(&hook)
				_, err = container.Run(timeout(t), opts...)
				fault.Hook.Store(nil)
				l.Release()
				if !killed {
					require.NoError(t, err)
					break
				}
				if err != nil {
					failures++
				}
				asBefore(t, before)
			}
			require.Positive(t, failures)
		})
	}
	_, err := container.Run(timeout(t), opts...)
	require.NoError(t, err)
	asBefore(t, before)
}

// operations are those of this package that fail in the test.
var operations = []string{
	"open locks", "netlink", "make bridge", "address", "sysctl", "nft", "take address", "bind", "make veth", "enter bridge",
	"setns", "look at", "up", "route", "ifb", "shape",
}

func ours(op string) bool {
	for _, o := range operations {
		if o == op {
			return true
		}
	}
	return false
}

// Many containers on a bridge: all talk, all are closed, and nothing is left.
func TestManyContainers(t *testing.T) {
	needHost(t)
	before := state(t)
	n := 20
	if soak() {
		n = 200
	}
	here, err := serve("7001")
	require.NoError(t, err)
	hold, err := network.Hold(timeout(t), network.Bridge(""))
	require.NoError(t, err)
	all := make([]*container.Container, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i := range all {
		c, err := container.New(selfMount(t), container.WithNetwork(network.Bridge("")), container.WithBandwidth(container.Rate{Egress: 10e6, Ingress: 10e6}))
		require.NoError(t, err)
		all[i] = c
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			errs[i] = c.Start(context.Background())
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	seen := map[string]bool{}
	for _, c := range all {
		v4, v6 := addresses(t, c)
		require.False(t, seen[v4] || seen[v6], "two have one address")
		seen[v4], seen[v6] = true, true
		check(t, "one of many", c, []question{{"tcp", at(gateway(c), "7001"), v4}})
	}
	for i, c := range all {
		wg.Go(func() { errs[i] = c.Close() })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, hold.Close())
	require.NoError(t, here.close())
	asBefore(t, before)
}

var hostJob = register("host", func(args []string) int {
	// A host program of its own: it connects containers and waits to be killed.
	for range 2 {
		c, err := container.New(container.WithNetwork(everythingBut()), container.WithBandwidth(container.Rate{Egress: 1e6, EgressPackets: 1e5}), container.WithCommand("sleep", "1000"), container.WithCapabilities("CAP_NET_ADMIN"))
		if err == nil {
			err = c.Start(context.Background())
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	l, err := launcher.Acquire(context.Background())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready", l.PID())
	_, _ = io.ReadAll(os.Stdin)
	return 0
})

// everythingBut is without ports, which two could not have.
func everythingBut() container.Network {
	return network.Bridge("dead", network.Open(), network.DenyAll())
}

// killed runs a host program that is killed, with its launcher or alone, and waits until
// the latter has ended too.
func killed(t *testing.T, together bool) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, hostJob)
	cmd.Env = append(os.Environ(), jobEnv)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	f := strings.Fields(line)
	require.Equal(t, "ready", f[0], line)
	pid, err := strconv.Atoi(f[1])
	require.NoError(t, err, line)
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	if together {
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	}
	require.NoError(t, unix.Kill(cmd.Process.Pid, unix.SIGKILL))
	require.NoError(t, in.Close())
	require.Error(t, cmd.Wait())
	// Until then the launcher holds the locks that say that somebody lives.
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, unix.Close(fd))
}

// The host program and its launcher are killed: what they leave goes by Prune, and the
// containers of others stay.
func TestPruneOfTheKilled(t *testing.T) {
	needHost(t)
	before := state(t)
	mine := start(t, container.WithNetwork(network.Bridge("")))
	with := state(t)
	killed(t, true)
	_, err := net.InterfaceByName("dead")
	require.NoError(t, err, "nobody was left to remove it")
	report, err := container.Prune(timeout(t))
	require.NoError(t, err)
	require.Contains(t, report.Removed, "link dead")
	require.Contains(t, report.Removed, "table inlay-dead")
	asBefore(t, with)
	check(t, "mine", mine, []question{{"tcp", at("127.0.0.1", "1"), ""}})
	require.NoError(t, mine.Close())
	asBefore(t, before)
}

// Both are killed, and whoever opens a bridge next removes what they left.
func TestNextRemovesWhatTheKilledLeft(t *testing.T) {
	needHost(t)
	before := state(t)
	killed(t, true)
	next := start(t, container.WithNetwork(network.Bridge("")))
	eventually(t, func() string { // the kernel ends its links in its own time
		for _, s := range state(t) {
			if strings.Contains(s, "dead") {
				return s
			}
		}
		return ""
	})
	require.NoError(t, next.Close())
	asBefore(t, before)
	_, err := container.Prune(timeout(t)) // their groups
	require.NoError(t, err)
}

// The host program alone is killed: its launcher's last act is to remove all that it had,
// again and again, and beside containers of somebody else's that stay.
func TestLauncherRemovesWhatItsHostLeft(t *testing.T) {
	needHost(t)
	before := state(t)
	for range 3 {
		killed(t, false)
		asBefore(t, before)
	}
	mine := start(t, container.WithNetwork(network.Bridge("dead")))
	with := state(t)
	killed(t, false)
	asBefore(t, with)
	check(t, "mine", mine, []question{{"tcp", at("127.0.0.1", "1"), ""}})
	require.NoError(t, mine.Close())
	asBefore(t, before)
}
