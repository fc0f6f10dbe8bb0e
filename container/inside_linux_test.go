package container_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/security"
)

// insider is what a host program inside of a container says of one of its own.
type insider struct {
	Out, Err, Remedy string
	Report           []container.Finding
	OK               bool
}

const insideHost = "inside host"

var _ = register(insideHost, func(args []string) int {
	ctx := context.Background()
	state := container.WithStateDir("/tmp/state")
	got := insider{}
	report, err := container.Probe(ctx, state)
	if err != nil {
		return saying(err)
	}
	got.Report, got.OK = report.Findings, report.OK()
	var out bytes.Buffer
	res, err := container.Run(ctx, state, container.WithStdout(&out), container.WithStderr(&out),
		sh("cat /proc/1/comm; id -u; ls /sys 2>/dev/null; touch /usr/new 2>/dev/null || echo read-only"))
	if err == nil {
		err = res.Err()
	}
	got.Out = out.String()
	if err != nil {
		got.Err = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(got); err != nil {
		return saying(err)
	}
	return 0
})

// Inside of an unprivileged container there are containers as far as that one lets them,
// and a refusal that says what is in the way.
func TestInsideAContainer(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	understand := func(out []byte) insider {
		var got insider
		require.NoError(t, json.Unmarshal(out, &got), "%s", out)
		return got
	}
	bwrap := func(t *testing.T, args ...string) insider {
		t.Helper()
		containertest.Require(t, containertest.Program("bwrap"))
		args = append([]string{
			"--unshare-user", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--ro-bind", "/", "/", "--dev", "/dev", "--bind", "/proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run", "--ro-bind", exe, "/run/test", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000",
		}, args...)
		cmd := exec.CommandContext(timeout(t), "bwrap", append(args, "/run/test", insideHost)...)
		cmd.Env = append(os.Environ(), jobEnv, noLinger, "TMPDIR=/tmp")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, "%s%s", out, &stderr)
		return understand(out)
	}
	inlay := func(t *testing.T, opts ...container.Option) insider {
		t.Helper()
		var out bytes.Buffer
		opts = append(opts, selfMount(t), selfJob(t, insideHost), container.WithEnv(noLinger), container.WithStdout(&out), container.WithStderr(os.Stderr))
		res, err := container.Run(timeout(t), opts...)
		require.NoError(t, err)
		require.NoError(t, res.Err(), out.String())
		return understand(out.Bytes())
	}
	finding := func(t *testing.T, got insider, name string) container.Finding {
		t.Helper()
		for _, f := range got.Report {
			if f.Name == name {
				return f
			}
		}
		require.Fail(t, "no such finding", "%s in %v", name, got.Report)
		return container.Finding{}
	}
	refused := func(t *testing.T, got insider) {
		t.Helper()
		require.False(t, got.OK)
		require.Empty(t, got.Out)
		require.True(t, strings.HasPrefix(got.Err, "inlay: "), got.Err)
	}

	t.Run("bubblewrap", func(t *testing.T) {
		got := bwrap(t)
		require.Empty(t, got.Err)
		require.Equal(t, "inlay-init\n0\nread-only\n", got.Out)
		require.True(t, got.OK, "%v", got.Report)
		require.True(t, finding(t, got, "cgroups").Note) // there are none to be had, and no limit was asked for
	})
	t.Run("a covered proc", func(t *testing.T) {
		got := bwrap(t, "--unshare-pid", "--proc", "/proc", "--ro-bind", "/dev/null", "/proc/uptime") // as Docker covers others
		refused(t, got)
		require.Contains(t, got.Err, "partly covered")
		require.Contains(t, finding(t, got, "proc").Detail, "/proc")
	})
	t.Run("the proc of others", func(t *testing.T) {
		got := bwrap(t, "--unshare-pid")
		refused(t, got)
		require.Contains(t, got.Err, "of another PID namespace")
	})
	t.Run("processes of its own", func(t *testing.T) {
		got := bwrap(t, "--unshare-pid", "--proc", "/proc")
		if os.Geteuid() == 0 { // root's bubblewrap covers parts of it
			refused(t, got)
			require.Contains(t, got.Err, "partly covered")
			return
		}
		require.Equal(t, "inlay-init\n0\nread-only\n", got.Out, got.Err)
	})
	t.Run("inlay", func(t *testing.T) {
		got := inlay(t)
		refused(t, got)
		require.False(t, finding(t, got, "user namespaces").OK)
	})
	t.Run("root without capabilities", func(t *testing.T) {
		got := bwrap(t, "--uid", "0", "--gid", "0")
		if got.Err == "" {
			t.Skip("needs Linux 5.12: before, root maps itself without CAP_SETFCAP")
		}
		refused(t, got)
		require.Contains(t, got.Err, "run as another user")
	})
	t.Run("inlay with user namespaces", func(t *testing.T) {
		containertest.Require(t, containertest.Users)
		got := inlay(t, container.WithUser(1000, 1000), container.WithUserNamespaceCreation(true), container.WithSeccomp(security.Unconfined()))
		refused(t, got)
		require.Contains(t, got.Err, "partly covered")
	})
}
