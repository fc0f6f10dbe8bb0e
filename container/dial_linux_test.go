package container_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// dialServer serves at a network and an address, which it prints once it does: HTTP
// with "http", else it sends back what it gets, or prints it where nobody can be
// answered.
var dialServer = register("dial server", func(args []string) int {
	how, network, address := args[0], args[1], args[2]
	err := func() error {
		switch network {
		case "udp", "udp4", "udp6", "unixgram":
			p, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			fmt.Println(p.LocalAddr())
			buf := make([]byte, 4096)
			for {
				n, from, err := p.ReadFrom(buf)
				if err != nil {
					return err
				}
				if network == "unixgram" {
					fmt.Printf("%s\n", buf[:n])
				} else if _, err := p.WriteTo(buf[:n], from); err != nil {
					return err
				}
			}
		}
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		fmt.Println(l.Addr())
		if how == "http" {
			return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = fmt.Fprintf(w, "%s %s from %s", r.Method, r.URL.Path, r.RemoteAddr) // the test sees what comes
			}))
		}
		for {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	fmt.Println(err)
	return 1
})

// dialDeaf listens and accepts nobody, with room for one.
var dialDeaf = register("dial deaf", func([]string) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 8080}), unix.Listen(fd, 0))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("127.0.0.1:8080")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
	return 0
})

// dialFetch fetches by HTTP, at a network and an address, and prints it.
var dialFetch = register("dial fetch", func(args []string) int {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, args[0], args[1])
	}}
	res, err := (&http.Client{Transport: transport}).Get("http://host/page")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err = io.Copy(os.Stdout, res.Body); err != nil {
		return 2
	}
	return 0
})

// serving starts a server in a container, and returns the address that it has and what
// it prints afterwards. It ends with the container.
func serving(t testing.TB, c *container.Container, job container.JobOption) (string, *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	in, hold, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(r.Close(), hold.Close())) })
	_, err = c.Exec(timeout(t), job, container.WithStdin(in), container.WithStdout(w), container.WithStderr(w))
	require.NoError(t, errors.Join(err, w.Close(), in.Close()))
	lines := bufio.NewReader(r)
	address, err := lines.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(address), lines
}

func server(t testing.TB, c *container.Container, how, network, address string) (string, *bufio.Reader) {
	t.Helper()
	return serving(t, c, selfJob(t, dialServer, how, network, address))
}

// hasIPv6 tells whether lo has ::1 where it is new.
func hasIPv6() bool {
	text, err := os.ReadFile("/proc/sys/net/ipv6/conf/default/disable_ipv6")
	return err == nil && strings.TrimSpace(string(text)) == "0"
}

func clientOf(t testing.TB, c *container.Container) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: c.Dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func fetch(t testing.TB, client *http.Client, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(timeout(t), http.MethodGet, url, nil)
	require.NoError(t, err)
	res, err := client.Do(req)
	require.NoError(t, err)
	text, err := io.ReadAll(res.Body)
	require.NoError(t, errors.Join(err, res.Body.Close()))
	require.Equal(t, http.StatusOK, res.StatusCode)
	return string(text)
}

// A host program talks with a server in the container by HTTP, whatever its network is.
func TestDialHTTP(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	other := start(t)
	for _, tt := range []struct {
		name string
		opt  container.Option
	}{
		{"own network", container.Options()},
		{"another's network", container.WithNamespaceOf(other, namespace.Network)},
		{"host's network", container.WithHostNamespace(namespace.Network)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, selfMount(t), tt.opt)
			address, _ := server(t, c, "http", "tcp", "127.0.0.1:0")
			require.Contains(t, fetch(t, clientOf(t, c), "http://"+address+"/a"), "GET /a from 127.0.0.1:")
			_, port, err := net.SplitHostPort(address)
			require.NoError(t, err)
			require.Contains(t, fetch(t, clientOf(t, c), "http://localhost:"+port+"/b"), "GET /b from 127.0.0.1:")
		})
	}
	t.Run("after the main job's end", func(t *testing.T) {
		c := start(t, selfMount(t), container.WithCommand("true"))
		_, err := c.Wait(timeout(t))
		require.NoError(t, err)
		_, err = c.Dial(timeout(t), "tcp", "127.0.0.1:8080")
		require.ErrorIs(t, err, unix.ECONNREFUSED)
		address, _ := server(t, c, "http", "tcp", "127.0.0.1:8080")
		require.Contains(t, fetch(t, clientOf(t, c), "http://"+address+"/c"), "GET /c")
	})
}

// All networks, to servers in the container: what is sent comes back, the addresses are
// right, and so are the connections' types.
func TestDial(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, selfMount(t))
	type row struct{ network, listen, dial, local, remote string }
	rows := []row{
		{"tcp", "127.0.0.1:8081", "127.0.0.1:8081", "127.0.0.1:", "127.0.0.1:8081"},
		{"tcp", "127.0.0.1:8082", "localhost:8082", "127.0.0.1:", "127.0.0.1:8082"},
		{"tcp4", "127.0.0.1:8083", ":8083", "127.0.0.1:", "127.0.0.1:8083"},
		{"tcp", "127.0.0.1:8084", "0.0.0.0:8084", "127.0.0.1:", "127.0.0.1:8084"},
		{"tcp", "127.1.2.3:8085", "[::ffff:127.1.2.3]:8085", "127.", "127.1.2.3:8085"},
		{"udp", "127.0.0.1:8081", "127.0.0.1:8081", "127.0.0.1:", "127.0.0.1:8081"},
		{"udp4", "127.0.0.1:8082", "localhost:8082", "127.0.0.1:", "127.0.0.1:8082"},
		{"unix", "/tmp/stream", "/tmp/stream", "", "/tmp/stream"},
		{"unix", "@stream", "@stream", "", "@stream"},
		{"unixpacket", "/tmp/packet", "/tmp/packet", "", "/tmp/packet"},
		{"unixpacket", "@packet", "@packet", "", "@packet"},
	}
	if hasIPv6() {
		rows = append(rows,
			row{"tcp6", "[::1]:8081", "[::1]:8081", "[::1]:", "[::1]:8081"},
			row{"tcp", "[::1]:8091", "localhost:8091", "[::1]:", "[::1]:8091"}, // the second that is tried
			row{"tcp6", "[::1]:8092", ":8092", "[::1]:", "[::1]:8092"},
			row{"udp6", "[::1]:8093", "[::]:8093", "[::1]:", "[::1]:8093"},
		)
	}
	for _, tt := range rows {
		t.Run(tt.network+" "+tt.dial, func(t *testing.T) {
			_, err := c.Dial(timeout(t), tt.network, tt.dial)
			if strings.HasPrefix(tt.network, "unix") && tt.dial[0] == '/' {
				require.ErrorIs(t, err, fs.ErrNotExist)
			} else if !strings.HasPrefix(tt.network, "udp") {
				require.ErrorIs(t, err, unix.ECONNREFUSED, "before it listens")
			}
			address, _ := server(t, c, "echo", tt.network, tt.listen)
			require.Equal(t, tt.listen, address)
			conn, err := c.Dial(timeout(t), tt.network, tt.dial)
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			for _, text := range []string{"hello", "again"} {
				_, err = conn.Write([]byte(text))
				require.NoError(t, err)
				buf := make([]byte, len(text))
				_, err = io.ReadFull(conn, buf)
				require.NoError(t, err)
				require.Equal(t, text, string(buf))
			}
			require.Equal(t, tt.remote, conn.RemoteAddr().String())
			require.True(t, strings.HasPrefix(conn.LocalAddr().String(), tt.local), "%v", conn.LocalAddr())
			switch tt.network[:3] {
			case "tcp":
				require.IsType(t, &net.TCPConn{}, conn)
			case "udp":
				require.IsType(t, &net.UDPConn{}, conn)
			default:
				require.IsType(t, &net.UnixConn{}, conn)
			}
		})
	}
	for _, address := range []string{"/tmp/datagrams", "@datagrams"} {
		t.Run("unixgram "+address, func(t *testing.T) {
			_, printed := server(t, c, "print", "unixgram", address)
			conn, err := c.Dial(timeout(t), "unixgram", address)
			require.NoError(t, err)
			_, err = conn.Write([]byte("hello"))
			require.NoError(t, errors.Join(err, conn.Close()))
			line, err := printed.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "hello\n", line)
		})
	}
}

// What is wrong with a request is told before init hears of it, as net tells it.
func TestDialRefused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	for _, tt := range []struct{ network, address, fault string }{
		{"tcp", "example.invalid:80", "lookup example.invalid: only addresses and localhost are known inside a container"},
		{"tcp", "127.0.0.1:http", "a port is a number"},
		{"tcp", "127.0.0.1:65536", "a port is a number"},
		{"tcp", "127.0.0.1", "missing port"},
		{"tcp4", "[::1]:80", "no suitable address"},
		{"tcp6", "127.0.0.1:80", "no suitable address"},
		{"tcp", "[fe80::1%lo]:80", "an address with a zone"},
		{"ip", "127.0.0.1", "unknown network ip"},
		{"", "", "unknown network"},
		{"unix", "", "begins with a slash"},
		{"unix", "tmp/x", "begins with a slash"},
		{"unix", "/tmp/", "a folder"},
		{"unix", "/a\x00b", "no zero bytes"},
		{"unix", "/" + strings.Repeat("x/", 2048) + "x", "more than 4095 bytes"},
		{"unix", "@", "without a name"},
		{"unix", "@" + strings.Repeat("x", 108), "more than 108 bytes"},
	} {
		_, dialErr := c.Dial(t.Context(), tt.network, tt.address)
		_, listenErr := c.Listen(t.Context(), tt.network, tt.address)
		for op, err := range map[string]error{"dial": dialErr, "listen": listenErr} {
			var fault *net.OpError
			require.ErrorAs(t, err, &fault, "%s %q", op, tt)
			require.Equal(t, op, fault.Op)
			require.Equal(t, tt.network, fault.Net)
			require.ErrorContains(t, err, tt.fault, "%q", tt)
		}
	}
	_, err := c.Dial(t.Context(), "tcp", "example.invalid:80")
	var name *net.DNSError
	require.ErrorAs(t, err, &name)
	require.True(t, name.IsNotFound)
	for _, network := range []string{"udp", "unixgram"} {
		_, err := c.Listen(t.Context(), network, "127.0.0.1:0")
		var unknown net.UnknownNetworkError
		require.ErrorAs(t, err, &unknown)
	}
	// The kernel's own answers, met inside.
	_, err = c.Dial(t.Context(), "tcp", "192.0.2.1:80")
	require.ErrorIs(t, err, unix.ENETUNREACH, "there is lo alone")
	_, err = c.Listen(t.Context(), "tcp", "192.0.2.1:80")
	require.ErrorIs(t, err, unix.EADDRNOTAVAIL)
	require.ErrorContains(t, err, "listen tcp 192.0.2.1:80: bind: ")
	_, err = c.Listen(t.Context(), "unix", "/nowhere/x")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = c.Listen(t.Context(), "unix", "/tmp/"+strings.Repeat("x", 108))
	require.ErrorIs(t, err, unix.ENAMETOOLONG)
	_, err = c.Listen(t.Context(), "unix", "/usr/x")
	require.ErrorIs(t, err, unix.EROFS)
}

// A container that is not there has an error of its own.
func TestDialLife(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c, err := container.New()
	require.NoError(t, err)
	both := func(want error) {
		t.Helper()
		for range 2 {
			_, err := c.Dial(timeout(t), "tcp", "127.0.0.1:80")
			require.ErrorIs(t, err, want)
			var fault *net.OpError
			require.ErrorAs(t, err, &fault)
			_, err = c.Listen(timeout(t), "tcp", "127.0.0.1:80")
			require.ErrorIs(t, err, want)
			require.ErrorAs(t, err, &fault)
		}
	}
	both(container.ErrNotStarted)
	require.NoError(t, c.Start(timeout(t)))
	require.NoError(t, c.Kill())
	_, err = c.Wait(timeout(t))
	require.NoError(t, err)
	both(container.ErrEnded)
	require.NoError(t, c.Close())
	both(container.ErrClosed)
}

// A server whose queue is full: the context ends the wait, and how it did is told.
func TestDialContext(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, selfMount(t))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Dial(ended, "tcp", "127.0.0.1:80")
	require.ErrorIs(t, err, context.Canceled)

	address, _ := serving(t, c, selfJob(t, dialDeaf))
	var queued []net.Conn
	for range 50 {
		var conn net.Conn
		ctx, cancel := context.WithTimeout(timeout(t), 300*time.Millisecond)
		conn, err = c.Dial(ctx, "tcp", address)
		cancel()
		if err != nil {
			break
		}
		queued = append(queued, conn)
	}
	defer func() {
		for _, conn := range queued {
			require.NoError(t, conn.Close())
		}
	}()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var fault net.Error
	require.ErrorAs(t, err, &fault)
	require.True(t, fault.Timeout())

	cause := errors.New("nobody waits any more")
	ctx, stop := context.WithCancelCause(timeout(t))
	failed := make(chan error, 1)
	go func() {
		conn, err := c.Dial(ctx, "tcp", address)
		if err == nil {
			err = errors.Join(errors.New("connected"), conn.Close())
		}
		failed <- err
	}()
	for { // state 2 is SYN_SENT
		text, err := fs.ReadFile(c.FS(), "proc/net/tcp")
		require.NoError(t, err)
		if strings.Contains(string(text), ":1F90 02 ") {
			break
		}
		require.NoError(t, timeout(t).Err())
		runtime.Gosched()
	}
	stop(cause)
	err = <-failed
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.ErrorAs(t, err, &fault)
	require.False(t, fault.Timeout())
}

// Paths are the container's, whatever its links say, and abstract names its network's.
func TestDialHostilePaths(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	dir := workFolder(t)
	outside := filepath.Join(dir, "outside")
	shown := filepath.Join(dir, "shown")
	require.NoError(t, os.Mkdir(shown, 0o777))
	require.NoError(t, os.Chmod(shown, 0o777))
	name := fmt.Sprintf("@inlay-test-%d", os.Getpid())
	for _, address := range []string{outside, name} {
		l, err := net.Listen("unix", address)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		conn, err := net.Dial("unix", address)
		require.NoError(t, err, "the host gets there")
		require.NoError(t, conn.Close())
	}
	require.NoError(t, os.Chmod(outside, 0o777))
	c := start(t, selfMount(t), container.WithMounts(rootfs.Bind(shown, "/shown")))
	_, _ = server(t, c, "echo", "unix", "/tmp/inside")
	execOutput(t, c, sh(`cd /tmp && ln -s "$1" abs && ln -s "../../../../../..$1" up && ln -s /tmp/inside good && ln -s loop loop && ln -s "/proc/self/root$1" magic &&
		ln -s /proc/1/cwd dir && ln -s /proc/self/fd/3 fd && mkfifo fifo && : >file && ln -s /shown link && ln -s ../../../../../../tmp deep`, outside))
	for path, want := range map[string]error{
		"/tmp/abs": fs.ErrNotExist, "/tmp/up": fs.ErrNotExist, outside: fs.ErrNotExist, "/../../../.." + outside: fs.ErrNotExist, "/tmp/loop": unix.ELOOP,
		"/tmp/magic": unix.ELOOP, "/tmp/dir/tmp/inside": unix.ELOOP, "/tmp/fd": unix.ELOOP, "/proc/1/fd/3": unix.ELOOP,
		"/proc/1/root" + outside: unix.ELOOP, "/tmp/fifo": unix.ECONNREFUSED, "/tmp/file": unix.ECONNREFUSED, "/tmp": unix.ECONNREFUSED,
		"/tmp/file/x": unix.ENOTDIR, name: unix.ECONNREFUSED,
	} {
		_, err := c.Dial(timeout(t), "unix", path)
		require.ErrorIs(t, err, want, "%s", path)
		require.ErrorContains(t, err, ": connect: ")
	}
	for _, path := range []string{"/tmp/good", "/tmp/deep/inside", "/../tmp/inside"} {
		conn, err := c.Dial(timeout(t), "unix", path)
		require.NoError(t, err, "%s", path)
		require.NoError(t, conn.Close())
	}
	_, err := c.Dial(timeout(t), "unixgram", "/tmp/inside")
	require.ErrorIs(t, err, unix.EPROTOTYPE)

	// A listener's folder is found so too, and its name is not followed.
	for path, want := range map[string]error{
		dir + "/new": fs.ErrNotExist, "/proc/self/root/tmp/new": unix.ELOOP, "/tmp/dir/new": unix.ELOOP, "/tmp/file/new": unix.ENOTDIR, "/tmp/abs": unix.EADDRINUSE,
		"/tmp/inside": unix.EADDRINUSE, "/tmp/..": unix.EADDRINUSE,
	} {
		_, err := c.Listen(timeout(t), "unix", path)
		require.ErrorIs(t, err, want, "%s", path)
		require.ErrorContains(t, err, ": bind: ")
	}
	l, err := c.Listen(timeout(t), "unix", "/tmp/link/new")
	require.NoError(t, err)
	require.Equal(t, "/tmp/link/new", l.Addr().String())
	require.FileExists(t, filepath.Join(shown, "new"))
	info, err := os.Lstat(filepath.Join(shown, "new"))
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket|0o777, info.Mode())
	// Init's folder and mask are as they were.
	require.Equal(t, "/\n", execOutput(t, c, sh("readlink /proc/1/cwd || pwd")))
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Close(), net.ErrClosed)
}

// With the host's processes and without a user namespace, /proc leads to the host's own
// root: not for init either.
func TestDialHostileProc(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root)
	needContainers(t)
	needKill(t)
	dir := workFolder(t)
	outside := filepath.Join(dir, "outside")
	l, err := net.Listen("unix", outside)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	c := start(t, container.WithHostNamespace(namespace.PID), container.WithHostNamespace(namespace.User))
	path := fmt.Sprintf("/proc/%d/root", os.Getpid())
	execOutput(t, c, container.WithUser(65534, 65534), sh(`ln -s "$1" /tmp/host`, path))
	for _, root := range []string{path, "/tmp/host"} {
		_, err = c.Dial(timeout(t), "unix", root+outside)
		require.ErrorIs(t, err, unix.ELOOP)
		_, err = c.Listen(timeout(t), "unix", root+dir+"/new")
		require.ErrorIs(t, err, unix.ELOOP)
	}
	require.NoFileExists(t, dir+"/new")
}

// A job fetches from this program's HTTP server, over all that it can listen at.
func TestListen(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, selfMount(t))
	type row struct{ network, listen, dial, from string }
	rows := []row{
		{"tcp", "127.0.0.1:0", "", "127.0.0.1:"},
		{"tcp", ":80", "127.0.0.1:80", "127.0.0.1:"},
		{"tcp4", "localhost:81", "127.0.0.1:81", "127.0.0.1:"},
		{"tcp4", "0.0.0.0:82", "127.5.5.5:82", "127."},
		{"unix", "/tmp/listen", "/tmp/listen", ""},
		{"unix", "@listen", "@listen", ""},
	}
	if hasIPv6() {
		rows = append(rows, row{"tcp", ":83", "[::1]:83", "[::1]:"}, row{"tcp6", "[::1]:84", "[::1]:84", "[::1]:"}, row{"tcp6", ":85", "[::1]:85", "[::1]:"})
	}
	for _, tt := range rows {
		t.Run(tt.network+" "+tt.listen, func(t *testing.T) {
			l, err := c.Listen(timeout(t), tt.network, tt.listen)
			require.NoError(t, err)
			if tt.dial == "" {
				tt.dial = l.Addr().String()
			} else if tt.network == "unix" {
				require.Equal(t, tt.listen, l.Addr().String())
			}
			_, err = c.Listen(timeout(t), tt.network, l.Addr().String())
			require.ErrorIs(t, err, unix.EADDRINUSE)
			locals := make(chan string, 1)
			srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				locals <- r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()
				_, _ = fmt.Fprintf(w, "page %s from %s", r.URL.Path, r.RemoteAddr) // the test sees what comes
			})}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(l) }()
			got := execOutput(t, c, selfJob(t, dialFetch, tt.network, tt.dial))
			require.Contains(t, got, "page /page from "+tt.from)
			require.Equal(t, tt.dial, <-locals)
			require.NoError(t, srv.Close())
			require.ErrorIs(t, <-served, http.ErrServerClosed)
		})
	}
	t.Run("another user", func(t *testing.T) {
		containertest.Require(t, containertest.Users)
		l, err := c.Listen(timeout(t), "unix", "/tmp/all")
		require.NoError(t, err)
		srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.NotFoundHandler()}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		require.Contains(t, execOutput(t, c, container.WithUser(1000, 1000), selfJob(t, dialFetch, "unix", "/tmp/all")), "404")
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// The host's network is not the container's: its lower ports are closed to it where they
// are to this user, and with a user namespace to root's containers as well.
func TestListenOnHost(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	require.NoError(t, err)
	c := start(t, container.WithHostNamespace(namespace.Network))
	if strings.TrimSpace(string(first)) == "1024" {
		_, err = c.Listen(timeout(t), "tcp", "127.0.0.1:1023")
		require.ErrorIs(t, err, unix.EACCES)
	}
	l, err := c.Listen(timeout(t), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err, "it is the host's own")
	require.NoError(t, errors.Join(conn.Close(), l.Close()))
}

// Both ends are this program's, in all ways at once.
func TestDialConcurrently(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	l, err := c.Listen(timeout(t), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepting := make(chan error, 1)
	var echoes sync.WaitGroup
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				accepting <- err
				return
			}
			echoes.Add(1)
			go func() {
				defer echoes.Done()
				// The other end sees what comes. Without splice(2), whose pipes Go keeps.
				_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
				_ = conn.Close()
			}()
		}
	}()
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for i := range 100 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			conn, err := c.Dial(timeout(t), "tcp", l.Addr().String())
			if err != nil {
				errs <- err
				return
			}
			text := fmt.Sprint("number ", i)
			_, err = conn.Write([]byte(text))
			buf := make([]byte, len(text))
			if err == nil {
				_, err = io.ReadFull(conn, buf)
			}
			if err == nil && string(buf) != text {
				err = fmt.Errorf("%q for %q", buf, text)
			}
			errs <- errors.Join(err, conn.Close())
		}()
	}
	wg.Wait()
	for range 100 {
		require.NoError(t, <-errs)
	}
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-accepting, net.ErrClosed)
	echoes.Wait()
}

// With the container its listeners are closed; a connection is not, so that what came
// over it is not lost, and ends.
func TestCloseWithConnections(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t, selfMount(t))
	l, err := c.Listen(timeout(t), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	unixListener, err := c.Listen(timeout(t), "unix", "/tmp/x")
	require.NoError(t, err)
	accepting := make(chan error, 2)
	for _, l := range []net.Listener{l, unixListener} {
		go func() {
			_, err := l.Accept()
			accepting <- err
		}()
	}
	address, _ := server(t, c, "echo", "tcp", "127.0.0.1:0")
	conn, err := c.Dial(timeout(t), "tcp", address)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = conn.Write([]byte("kept until it is read"))
	require.NoError(t, err)
	one := make([]byte, 1)
	_, err = io.ReadFull(conn, one)
	require.NoError(t, err, "it has come back")
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-accepting, net.ErrClosed)
	require.ErrorIs(t, <-accepting, net.ErrClosed)
	rest, err := io.ReadAll(conn)
	if err != nil {
		require.ErrorIs(t, err, unix.ECONNRESET)
	}
	require.Equal(t, "kept until it is read", string(one)+string(rest))
	_, err = c.Listen(timeout(t), "tcp", "127.0.0.1:0")
	require.ErrorIs(t, err, container.ErrClosed)
}

// No program that this one starts inherits a socket.
func TestDialDescriptors(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	c := start(t)
	l, err := c.Listen(timeout(t), "unix", "@x")
	require.NoError(t, err)
	conn, err := c.Dial(timeout(t), "unix", "@x")
	require.NoError(t, err)
	accepted, err := l.Accept()
	require.NoError(t, err)
	for _, s := range []any{l, conn, accepted} {
		raw, err := s.(syscall.Conn).SyscallConn()
		require.NoError(t, err)
		var flags int
		require.NoError(t, raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFD, 0) }))
		require.NoError(t, err)
		require.Equal(t, unix.FD_CLOEXEC, flags)
	}
	require.NoError(t, errors.Join(conn.Close(), accepted.Close(), l.Close()))
}
