//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// The test plays the host in a network namespace of its own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		fmt.Fprintln(os.Stderr, serve())
		os.Exit(1)
	}
	if os.Getenv("INLAY_TEST_HOST") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "INLAY_TEST_HOST=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		// As another user than root, who may bring lo up.
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getegid(), Size: 1}}
	}
	err := cmd.Run()
	var e *exec.ExitError
	switch {
	case errors.As(err, &e):
		os.Exit(e.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestShow(t *testing.T) {
	containertest.Require(t, containertest.Root, containertest.Containers)
	loUp(t)
	containertest.Census(t)
	var out bytes.Buffer
	require.NoError(t, show(t.Context(), &out))
	t.Log("\n" + out.String())
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Contains(t, lines[0], "the container has [10.224.0.2/20 ")
	require.Contains(t, lines[1], "says: hello, 10.224.0.1:")
	var bytes int
	var took, measured, of float64
	_, err := fmt.Sscanf(lines[2], "%d bytes in %f s: %f Mbit/s of %f", &bytes, &took, &measured, &of)
	require.NoError(t, err, lines[2])
	require.Equal(t, size, bytes)
	require.Less(t, measured, of, "the rate holds, and headers are of it too")
	_, err = net.InterfaceByName("inlay0")
	require.Error(t, err, "nobody uses it any more")
}

// A user has the same by pasta; one of a version that wants a host with a way out, which
// this one has not, says so.
func TestRootless(t *testing.T) {
	containertest.Require(t, containertest.Rootless, containertest.Containers, containertest.Program("pasta"))
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skipf("needs a tun device: %v", err)
	} else {
		require.NoError(t, f.Close())
	}
	loUp(t)
	containertest.Census(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var out bytes.Buffer
	err := show(ctx, &out)
	if err == nil {
		require.Contains(t, out.String(), "says: hello, 10.224.0.1:")
		return
	}
	var e *container.StartError
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Contains(t, e.Remedy, "default route")
}

func loUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(fd)) }()
	ifr, err := unix.NewIfreq("lo")
	require.NoError(t, err)
	ifr.SetUint16(unix.IFF_UP)
	require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}
