package container_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// The test binary is its own job: a function registered beside the test that
// starts it, chosen by the first argument.
var (
	jobs    = map[string]func(args []string) int{}
	usedMu  sync.Mutex
	jobUsed = map[string]bool{}
)

const jobEnv = "INLAY_TEST_JOB=1"

func register(name string, f func(args []string) int) string {
	if jobs[name] != nil {
		panic("job " + name + " is registered twice")
	}
	jobs[name] = f
	return name
}

func TestMain(m *testing.M) {
	if os.Getenv("INLAY_TEST_JOB") != "" && len(os.Args) > 1 {
		f := jobs[os.Args[1]]
		if f == nil {
			fmt.Fprintln(os.Stderr, "no such job:", os.Args[1])
			os.Exit(125)
		}
		os.Exit(f(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// groupsOf tells whether this host lets the test limit something by control groups.
func groupsOf(t testing.TB, controller string) bool {
	t.Helper()
	top := containertest.Groups(t)
	return top != nil && top.Has(controller)
}

// self runs the test binary in the container, as the named job.
func self(t testing.TB, name string, args ...string) container.Option {
	t.Helper()
	return container.Options(selfMount(t), selfJob(t, name, args...))
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
	usedMu.Lock()
	jobUsed[name] = true
	usedMu.Unlock()
	return container.JobOptions(container.WithCommand("/run/test", append([]string{name}, args...)...), container.WithEnv(jobEnv, "GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0"))
}

// timeout bounds what a test waits for; nothing is expected to take that long.
func timeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// output runs a container to its end and returns what it wrote; the job must
// succeed.
func output(t testing.TB, opts ...container.Option) string {
	t.Helper()
	var out bytes.Buffer
	res, err := container.Run(timeout(t), append(opts, container.WithStdout(&out), container.WithStderr(&out))...)
	require.NoError(t, err)
	require.NoError(t, res.Err(), "%s", out.String())
	return out.String()
}

// sh is a shell line as the command.
func sh(line string, args ...string) container.JobOption {
	return container.WithCommand("/bin/sh", append([]string{"-c", line, "sh"}, args...)...)
}

// needContainers skips where none can be started.
func needContainers(t testing.TB) {
	t.Helper()
	containertest.Require(t, containertest.Containers)
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }

// In the project's VMs, which are emulated, all takes some ten times longer: what is
// done many times is done less often there, and of the steps of a plan every fourth
// fails.
func often(n int) int {
	if os.Getenv("INLAY_VM") != "" {
		return max(n/10, 5)
	}
	return n
}

func stride() int {
	switch {
	case testing.Short():
		return 11
	case os.Getenv("INLAY_VM") != "":
		return 4
	}
	return 1
}
