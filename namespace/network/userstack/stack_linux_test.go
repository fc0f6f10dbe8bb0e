package userstack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/outside"
	"github.com/inlay-dev/inlay/namespace/network"
	"github.com/inlay-dev/inlay/namespace/network/userstack"
	"github.com/inlay-dev/inlay/rootfs"
)

// The test binary is its own job, and the world: a user namespace with a host's network
// and one outside of it, below which the tests have no rights over either.
const (
	roleEnv = "INLAY_TEST_ROLE" // "world", "host", "job"

	echoPort   = "7002"
	sourcePort = "7011"
	patience   = 10 * time.Second
)

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleEnv); {
	case role == "job":
		err = job(os.Args[1], os.Args[2:])
	case role == "world":
		if err = outside.Make(serve, func() {}); err == nil {
			err = again("host", 1000, syscall.CLONE_NEWUSER)
		}
	case role == "host" || os.Geteuid() == 0:
		os.Exit(m.Run())
	default:
		err = again("world", 0, syscall.CLONE_NEWUSER|syscall.CLONE_NEWNET)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Println(err)
		os.Exit(1)
	}
}

// again runs this program in new namespaces, as an id, in a role.
func again(role string, id int, flags uintptr) error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: flags, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: os.Getegid(), Size: 1}},
	}
	return cmd.Run()
}

// serve answers questions with what was asked, the whole of it, and who it saw; on TCP
// the answer comes once the asker has ended his side. The source sends without an end.
func serve() error {
	err := outside.Serve(echoPort, func(c net.Conn) {
		if text, err := io.ReadAll(c); err == nil {
			_, _ = fmt.Fprintf(c, "%s %s", text, outside.Peer(c.RemoteAddr().String())) // who asked sees that it does not come
		}
	})
	if err == nil {
		err = outside.Serve(sourcePort, outside.Spill)
	}
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", ":"+echoPort)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(fmt.Appendf(nil, "%s %s", buf[:n], outside.Peer(from.String())), from) // lost, as any packet may be
		}
	}()
	return nil
}

// job is what runs in containers.
func job(what string, args []string) error {
	c, err := net.DialTimeout(args[0], args[1], patience)
	if errors.Is(err, unix.ECONNREFUSED) {
		fmt.Print("refused")
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	switch what {
	case "ask":
		if _, err := io.WriteString(c, args[2]); err != nil {
			return err
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			if err := tcp.CloseWrite(); err != nil {
				return err
			}
			_, err = io.Copy(os.Stdout, c)
			return err
		}
		buf := make([]byte, 2000)
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(buf[:n])
		return err
	case "pace":
		rate, err := outside.Pace(c)
		fmt.Print(rate)
		return err
	}
	return fmt.Errorf("no such job: %q", what)
}

// begin starts a container by the stack.
func begin(t *testing.T, opts ...container.Option) *container.Container {
	t.Helper()
	containertest.Require(t, containertest.Rootless, containertest.Containers)
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skipf("needs a tun device: %v", err)
	} else {
		require.NoError(t, f.Close())
	}
	containertest.Census(t)
	userstack.Prefer()
	exe, err := os.Executable()
	require.NoError(t, err)
	c, err := container.New(append([]container.Option{container.WithMounts(rootfs.Bind(exe, "/run/test", rootfs.ReadOnly()))}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, c.Start(limit(t)))
	return c
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func do(t *testing.T, c *container.Container, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	p, err := c.Exec(limit(t), container.WithCommand("/run/test", args...), container.WithEnv(roleEnv+"=job"), container.WithStdout(&out), container.WithStderr(&out))
	require.NoError(t, err)
	res, err := p.Wait(limit(t))
	require.NoError(t, err)
	require.True(t, res.Success(), "%v: %s", res, out.String())
	return out.String()
}

// Containers reach outside by the stack, connections end one side after the other, and
// are refused where nobody listens; nothing of the host's is reached.
func TestReach(t *testing.T) {
	here, err := net.Listen("tcp", ":7001")
	require.NoError(t, err)
	defer func() { require.NoError(t, here.Close()) }()
	c := begin(t, container.WithNetwork(network.Bridge("")))
	require.Contains(t, children(t), userstack.Name)
	for _, proto := range []string{"tcp", "udp"} {
		require.Equal(t, "hello "+outside.Host4, do(t, c, "ask", proto, net.JoinHostPort(outside.IPv4, echoPort), "hello"))
		require.Equal(t, "hello "+outside.Host6, do(t, c, "ask", proto, net.JoinHostPort(outside.IPv6, echoPort), "hello"))
	}
	long := strings.Repeat("0123456789", 100_00)
	require.Equal(t, long+" "+outside.Host4, do(t, c, "ask", "tcp", net.JoinHostPort(outside.IPv4, echoPort), long))
	require.Equal(t, "refused", do(t, c, "ask", "tcp", net.JoinHostPort(outside.IPv4, "7003"), "hello"))
	for _, to := range []string{outside.Host4, outside.Host6, "127.0.0.1"} {
		p, err := c.Exec(limit(t), container.WithCommand("/usr/bin/timeout", "1", "/run/test", "ask", "tcp", net.JoinHostPort(to, "7001"), "x"), container.WithEnv(roleEnv+"=job"))
		require.NoError(t, err)
		res, err := p.Wait(limit(t))
		require.NoError(t, err)
		require.True(t, !res.Success() || to == "127.0.0.1", "%s: %v", to, res) // there it is refused by the container's own lo
	}
}

// children are the names of all processes below this one.
func children(t *testing.T) (names []string) {
	t.Helper()
	for at, todo := 0, []string{fmt.Sprint(os.Getpid())}; at < len(todo); at++ {
		lists, err := filepath.Glob("/proc/" + todo[at] + "/task/*/children")
		require.NoError(t, err)
		for _, f := range lists {
			text, err := os.ReadFile(f)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // it has ended
			}
			require.NoError(t, err)
			todo = append(todo, strings.Fields(string(text))...)
		}
		if text, err := os.ReadFile("/proc/" + todo[at] + "/comm"); err == nil {
			names = append(names, strings.TrimSpace(string(text)))
		}
	}
	return names
}

// What is received keeps the rate.
func TestRate(t *testing.T) {
	for _, rate := range []float64{5e6, 20e6} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			c := begin(t, container.WithNetwork(network.Bridge("")), container.WithBandwidth(container.Rate{Ingress: uint64(rate)}))
			last := 0.0
			for range 20 { // a machine that is busy with something else is too slow, never too fast
				_, err := fmt.Sscan(do(t, c, "pace", "tcp", net.JoinHostPort(outside.IPv4, sourcePort)), &last)
				require.NoError(t, err)
				t.Logf("%.0f bit/s", last)
				if last >= 0.9*rate {
					break
				}
			}
			require.InDelta(t, 0.95, last/rate, 0.1)
		})
	}
}
