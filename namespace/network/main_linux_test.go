package network_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace/network"
	"github.com/inlay-dev/inlay/rootfs"
)

// The test binary is its own job, and plays the host inside a network namespace of its
// own: no address, link or rule of the machine is touched.
var jobs = map[string]func(args []string) int{}

func register(name string, f func(args []string) int) string {
	jobs[name] = f
	return name
}

const (
	jobEnv  = "INLAY_TEST_JOB=1"
	hostEnv = "INLAY_TEST_HOST"
	// worldEnv: not the host, but what a user cannot make for his tests: its network.
	worldEnv = "INLAY_TEST_WORLD"
)

func TestMain(m *testing.M) {
	if os.Getenv("INLAY_TEST_JOB") != "" && len(os.Args) > 1 {
		f := jobs[os.Args[1]]
		if f == nil {
			fmt.Fprintln(os.Stderr, "no such job:", os.Args[1])
			os.Exit(125)
		}
		os.Exit(f(os.Args[2:]))
	}
	switch {
	case os.Getenv(worldEnv) != "":
		os.Exit(playWorld())
	case os.Getenv(hostEnv) != "":
		os.Exit(m.Run())
	case os.Geteuid() != 0:
		os.Exit(again(worldEnv, 0, syscall.CLONE_NEWUSER|syscall.CLONE_NEWNET))
	}
	os.Exit(again(hostEnv, -1, syscall.CLONE_NEWNET))
}

// again runs this program in new namespaces, with a variable set, in a user namespace as
// an id.
func again(env string, id int, flags uintptr) int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, worldEnv) {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, env+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: id, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: id, HostID: os.Getegid(), Size: 1}}
	}
	err := cmd.Run()
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "needs a network namespace:", err)
		return 1
	}
	return 0
}

// needHost skips who cannot be a host with bridges, and brings its lo up.
func needHost(t testing.TB) {
	t.Helper()
	containertest.Require(t, containertest.Root, containertest.Containers)
	require.NotEmpty(t, os.Getenv(hostEnv))
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	containertest.Census(t)
}

// timeout bounds what a test waits for; nothing is expected to take that long.
func timeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// selfMount shows the test binary in the container.
func selfMount(t testing.TB) container.Option {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return container.WithMounts(rootfs.Bind(exe, "/run/test", rootfs.ReadOnly()))
}

// selfJob is the test binary as a job of a container that has selfMount.
func selfJob(t testing.TB, name string, args ...string) container.JobOption {
	t.Helper()
	require.Contains(t, jobs, name)
	return container.JobOptions(container.WithCommand("/run/test", append([]string{name}, args...)...), container.WithEnv(jobEnv, "GOMAXPROCS=2"))
}

// start starts a container that waits for jobs.
func start(t testing.TB, opts ...container.Option) *container.Container {
	t.Helper()
	c, err := container.New(append([]container.Option{selfMount(t)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, c.Start(timeout(t)))
	return c
}

// do runs a job in a container to its end, and returns what it wrote.
func do(t testing.TB, c *container.Container, opts ...container.JobOption) string {
	t.Helper()
	var out bytes.Buffer
	p, err := c.Exec(timeout(t), append(opts, container.WithStdout(&out), container.WithStderr(&out))...)
	require.NoError(t, err)
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.True(t, res.Success(), "%v: %s", res, out.String())
	return out.String()
}

func sh(line string) container.JobOption { return container.WithCommand("/bin/sh", "-c", line) }

// A user without pasta is told so at once, and what to do.
func TestUnprivileged(t *testing.T) {
	containertest.Require(t, containertest.Rootless, containertest.Containers)
	containertest.Census(t)
	defer network.SetPasta(nil)()
	_, err := container.Run(timeout(t), container.WithCommand("true"), container.WithNetwork(network.Bridge("")))
	var e *container.StartError
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Equal(t, "WithNetwork", e.Op)
	require.Contains(t, e.Remedy, "root")
	require.Contains(t, e.Remedy, "passt")
	c, err := container.New(container.WithCommand("true"), container.Optional(container.WithNetwork(network.Bridge(""))))
	require.NoError(t, err)
	require.NoError(t, c.Start(timeout(t)))
	require.NoError(t, c.Close())
	require.Nil(t, c.Addresses())
	require.Contains(t, fmt.Sprint(c.Dropped()), "WithNetwork")
}

// Root of a user namespace that an unprivileged user has made, with a network namespace in
// it, is a host as any other.
func TestHostInUserNamespace(t *testing.T) {
	containertest.Require(t, containertest.Rootless, containertest.Containers)
	tests := []string{"TestBridge", "TestTaken", "TestOf", "TestForeignBridge"}
	cmd := exec.CommandContext(timeout(t), "/proc/self/exe", "-test.v", "-test.run", "^("+strings.Join(tests, "|")+")$")
	cmd.Env = append(os.Environ(), hostEnv+"=1", "XDG_RUNTIME_DIR="+t.TempDir())
	one := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, UidMappings: one(os.Getuid()), GidMappings: one(os.Getgid())}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range tests {
		require.Contains(t, string(out), "--- PASS: "+name, "%s", out)
	}
}
