package container_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/security"
)

const tryLandlocked = "try what Landlock holds"

// What a landlocked job tries, and what it meets.
var _ = register(tryLandlocked, func(args []string) int {
	try := func(name string, err error) { fmt.Printf("%s:\t%s\n", name, answer(err)) }
	open := func(name string, flags int) error {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o600)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}
	try("read w", open("/tmp/w/a", unix.O_RDONLY))
	try("make in w", open("/tmp/w/b", unix.O_WRONLY|unix.O_CREAT))
	try("truncate in w", unix.Truncate("/tmp/w/a", 0))
	try("link in w", unix.Link("/tmp/w/a", "/tmp/w/c"))
	try("read r", open("/tmp/r/a", unix.O_RDONLY))
	try("list r", open("/tmp/r", unix.O_RDONLY|unix.O_DIRECTORY))
	try("write r", open("/tmp/r/a", unix.O_WRONLY))
	try("make in r", open("/tmp/r/b", unix.O_WRONLY|unix.O_CREAT))
	try("truncate in r", unix.Truncate("/tmp/r/a", 0))
	try("remove in r", unix.Unlink("/tmp/r/a"))
	try("read file", open("/tmp/file", unix.O_RDONLY))
	try("write file", open("/tmp/file", unix.O_WRONLY))
	try("read others", open("/tmp/o/a", unix.O_RDONLY))
	try("list others", open("/tmp/o", unix.O_RDONLY|unix.O_DIRECTORY))
	try("truncate others", unix.Truncate("/tmp/o/a", 0))
	try("list /", open("/", unix.O_RDONLY|unix.O_DIRECTORY))
	try("make in /tmp", unix.Mkdir("/tmp/x", 0o700))
	try("move out of w", unix.Rename("/tmp/w/a", "/tmp/o/b"))
	try("by a link", func() error {
		if err := unix.Symlink("/tmp/o/a", "/tmp/w/link"); err != nil {
			return err
		}
		return open("/tmp/w/link", unix.O_RDONLY)
	}())
	// What is not among the paths cannot be executed either.
	try("execute others", exec.Command("/tmp/o/program").Run())
	for _, port := range []int{0, 4001, 4002} {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			err = l.Close()
		}
		try("bind "+strconv.Itoa(port), err)
	}
	for _, port := range []int{4003, 4004} {
		_, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		try("connect "+strconv.Itoa(port), err)
	}
	other, err := strconv.Atoi(args[0])
	if err != nil {
		return 1
	}
	try("signal another", unix.Kill(other, 0))
	try("signal itself", unix.Kill(os.Getpid(), 0))
	for _, protocol := range []int{262, 256} { // MPTCP, SMC
		_, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
		try("protocol "+strconv.Itoa(protocol), err)
	}
	_, err = net.Dial("unix", "@other")
	try("abstract socket", err)
	return 0
})

const listenAbstract = "listen at an abstract socket"

var _ = register(listenAbstract, func([]string) int {
	l, err := net.Listen("unix", "@other")
	if err != nil {
		return 1
	}
	fmt.Println(os.Getpid())
	_ = os.Stdout.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		_ = c.Close()
	}
})

// landlockVersion skips where the kernel has no Landlock, or too old a one.
func landlockVersion(t *testing.T, least int) int {
	t.Helper()
	abi, err := security.LandlockABI()
	if err != nil {
		t.Skipf("needs Landlock: %v", err)
	}
	if abi < least {
		t.Skipf("needs Landlock of version %d: this kernel has %d", least, abi)
	}
	return abi
}

// Rules hold, of each kind that this kernel has, for the main job's container and by
// Exec, where nothing that they do not speak of changes.
func TestLandlock(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	abi := landlockVersion(t, 1)
	files := []container.Option{selfMount(t)}
	for _, n := range []string{"/tmp/w/a", "/tmp/r/a", "/tmp/file", "/tmp/o/a"} {
		files = append(files, container.WithFile(n, []byte("x"), 0o666))
	}
	files = append(files, container.WithFile("/tmp/o/program", []byte("#!/bin/sh\n"), 0o777))
	programs := slices.DeleteFunc([]string{"/usr", "/bin", "/lib", "/lib64"}, func(n string) bool {
		_, err := os.Stat(n)
		return err != nil
	})
	paths := []security.LandlockRule{security.AllowRead("/tmp/r", "/tmp/file", "/run/test", "/proc", "/etc", "/dev/null"), security.AllowWrite("/tmp/w"), security.AllowRead(programs...)}
	ports := []security.LandlockRule{security.AllowBind(0, 4001), security.AllowConnect(4003)}
	scopes := []security.LandlockRule{security.ScopeSignals(), security.ScopeAbstractSockets()}
	const held, refused = "EACCES", "EPERM"
	free := map[string]string{"by a link": "done", "bind 0": "done", "connect 4003": "ECONNREFUSED", "connect 4004": "ECONNREFUSED"}
	byPaths := map[string]string{
		"write r": held, "make in r": held, "remove in r": held, "write file": held, "read others": held, "list others": held, "list /": held,
		"make in /tmp": held, "move out of w": held, "by a link": held, "execute others": held,
	}
	if abi >= 3 {
		byPaths["truncate in r"], byPaths["truncate others"] = held, held
	}
	noOther := map[string]string{"protocol 262": "EPROTONOSUPPORT", "protocol 256": "EPROTONOSUPPORT"}
	byPorts := map[string]string{"bind 4002": held, "connect 4004": held}
	byScopes := map[string]string{"signal another": refused, "abstract socket": refused}
	for _, r := range []struct {
		name  string
		least int
		rules []security.LandlockRule
		want  []map[string]string
	}{
		{"paths", 1, paths, []map[string]string{byPaths}},
		{"ports", 4, ports, []map[string]string{byPorts, noOther}},
		{"no port", 4, []security.LandlockRule{security.AllowBind()}, []map[string]string{{"bind 0": held, "bind 4001": held, "bind 4002": held}, noOther}},
		{"scopes", 6, scopes, []map[string]string{byScopes}},
		{"all", 6, append(append(paths, ports...), scopes...), []map[string]string{byPaths, byPorts, byScopes, noOther}},
	} {
		t.Run(r.name, func(t *testing.T) {
			landlockVersion(t, r.least)
			want := map[string]string{}
			for _, m := range append([]map[string]string{free}, r.want...) {
				for k, v := range m {
					want[k] = v
				}
			}
			// Before Linux 6.2 truncation is not held, and to say so is asked for.
			rules := container.Optional(container.WithLandlock(r.rules...))
			check := func(t *testing.T, c *container.Container, opts ...container.JobOption) {
				t.Helper()
				var out bytes.Buffer
				pid, write, err := os.Pipe()
				require.NoError(t, err)
				other, err := c.Exec(timeout(t), selfJob(t, listenAbstract), container.Optional(container.WithLandlock(security.AllowWrite("/"))), container.WithStdout(write))
				require.NoError(t, err)
				require.NoError(t, write.Close())
				line, err := bufio.NewReader(pid).ReadString('\n')
				require.NoError(t, err)
				require.NoError(t, pid.Close())
				p, err := c.Exec(timeout(t), append(opts, selfJob(t, tryLandlocked, strings.TrimSpace(line)), container.WithStdout(&out), container.WithStderr(&out))...)
				require.NoError(t, err)
				res, err := p.Wait(timeout(t))
				require.NoError(t, err)
				require.NoError(t, res.Err(), out.String())
				for _, l := range lines(out.String()) {
					if !slices.ContainsFunc(r.want, func(m map[string]string) bool { return m["protocol 262"] != "" }) && strings.HasPrefix(l, "protocol ") {
						continue // the kernel's own to have or not
					}
					name, met, _ := bytes.Cut([]byte(l), []byte(":\t"))
					w, ok := want[string(name)]
					if !ok {
						w = "done"
					}
					require.Equal(t, w, string(met), string(name))
				}
				require.NoError(t, other.Kill())
				_, err = other.Wait(timeout(t))
				require.NoError(t, err)
			}
			c := start(t, files...)
			check(t, c, rules)
			require.NoError(t, c.Close())
			c = start(t, append(files, rules)...) // and who has no rules of its own has the container's
			check(t, c)
			require.Equal(t, abi < 3, len(c.Dropped()) > 0 && c.Dropped()[0].Option == "WithLandlock", "%v", c.Dropped())
			require.NoError(t, c.Close())
		})
	}
}

// Rules that this kernel does not keep are refused, or dropped by name; a path that is
// not there, and a command that the rules keep from being executed, are named.
func TestLandlockRefused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	abi, why := security.LandlockABI()
	scope := container.WithLandlock(security.ScopeSignals())
	if abi < 6 {
		_, err := container.Run(timeout(t), sh("true"), scope)
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		require.Equal(t, "landlock", e.Op)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.NotEmpty(t, e.Remedy)
		res, err := container.Run(timeout(t), sh("true"), container.Optional(scope))
		require.NoError(t, err)
		require.NoError(t, res.Err())
		require.Contains(t, fmt.Sprint(res.Dropped), "WithLandlock")
		c := start(t)
		_, err = c.Exec(timeout(t), sh("true"), scope)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.Equal(t, 0, execCode(t, c, sh("true")))
		require.NoError(t, c.Close())
	}
	if why != nil {
		return // shown: without Landlock nothing else can be
	}
	rules := func(paths ...string) container.Option {
		return container.Optional(container.WithLandlock(security.AllowRead(paths...)))
	}
	// Before its ids and capabilities are set, for a job that may gain them.
	res, err := container.Run(timeout(t), sh("cat /etc/passwd"), rules("/bin", "/usr", "/lib"), container.WithNoNewPrivileges(false))
	require.NoError(t, err)
	require.Equal(t, 1, res.ExitCode, "%v", res)
	_, err = container.Run(timeout(t), sh("true"), rules("/not/there"))
	var e *container.StartError
	require.ErrorAs(t, err, &e)
	require.Equal(t, "/not/there", e.Path)
	require.ErrorIs(t, err, unix.ENOENT)
	_, err = container.Run(timeout(t), sh("true"), rules("/etc"))
	require.ErrorIs(t, err, container.ErrNotExecutable)
	require.ErrorContains(t, err, "WithLandlock")
}
