package attack

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// world is what a host has that jobs are not to reach. The arguments of attacks
// name parts of it in braces.
type world struct {
	dir      string // {dir}: a folder, 0755
	canary   string // {canary}: a file in it, 0644, which holds the secret
	secret   string // {secret}
	port     int    // {port}: of a TCP listener at 127.0.0.1 that answers with the secret
	abstract string // {abstract}: the name of an abstract stream socket that does, without the zero byte
	socket   string // {socket}: the path of one
	pid      int    // {pid}: a process of the same user's, whose environment holds the secret
	shm      int    // {shm}: the id of a System V segment, 0666, that holds the secret
	shmKey   int    // {shmkey}
	queue    string // {queue}: a POSIX message queue, 0666, with the secret as its message
	dev      string // {dev}: MAJOR:MINOR of the disk that the folder lies on
	uid      int    // {uid}: of the host program

	further []string // more names in braces, each with what it stands for

	before string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	// Not t.TempDir: with a long name of a test the path of the socket is too long.
	dir, err := os.MkdirTemp("", "inlay-world") //nolint:usetesting // see above
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	w := &world{dir: dir, secret: "secret-" + rand.Text(), uid: os.Geteuid()}
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // so that nothing but the container is in the way
	w.canary = filepath.Join(w.dir, "canary")
	require.NoError(t, os.WriteFile(w.canary, []byte(w.secret), 0o644)) //nolint:gosec // the same

	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.port = tcp.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it was asked for
	w.abstract = "inlay-attack-" + rand.Text()
	abstract, err := net.Listen("unix", "@"+w.abstract)
	require.NoError(t, err)
	w.socket = filepath.Join(w.dir, "socket")
	named, err := net.Listen("unix", w.socket)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(w.socket, 0o777)) //nolint:gosec // the same
	for _, l := range []net.Listener{tcp, abstract, named} {
		w.answer(t, l)
	}
	w.startVictim(t)
	w.makeIPC(t)
	w.listenEverywhere(t)
	w.nameHost(t)

	var st unix.Stat_t
	require.NoError(t, unix.Stat(w.dir, &st))
	w.dev = fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	w.before = w.look(t)
	return w
}

// answer gives the secret to whoever connects, until the test ends.
func (w *world) answer(t testing.TB, l net.Listener) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(w.secret)) // the attacker may be gone
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		<-ended
	})
}

// startVictim starts a process that waits, of this user's.
func (w *world) startVictim(t testing.TB) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "echo ready; read nothing")
	cmd.Env = []string{"SECRET=" + w.secret, "PATH=" + os.Getenv("PATH")}
	cmd.Dir = w.dir
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	w.pid = cmd.Process.Pid
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		// 1 by read, at the end of its input: no attack has ended it.
		var e *exec.ExitError
		if err := cmd.Wait(); err != nil {
			require.ErrorAs(t, err, &e)
			require.Equal(t, 1, e.ExitCode(), "%v", err)
		}
	})
}

// makeIPC makes what System V and POSIX share by name.
func (w *world) makeIPC(t testing.TB) {
	t.Helper()
	w.shmKey = os.Getpid()<<8 | 0x5a
	id, err := unix.SysvShmGet(w.shmKey, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
	require.NoError(t, err)
	w.shm = id
	mem, err := unix.SysvShmAttach(id, 0, 0)
	require.NoError(t, err)
	copy(mem, w.secret)
	require.NoError(t, unix.SysvShmDetach(mem))
	t.Cleanup(func() {
		_, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		require.NoError(t, err)
	})

	w.queue = "inlay-attack-" + strconv.Itoa(os.Getpid())
	name, err := unix.BytePtrFromString(w.queue)
	require.NoError(t, err)
	old := unix.Umask(0)
	attr := struct {
		flags, maxmsg, msgsize, curmsgs int64
		_                               [4]int64
	}{maxmsg: 4, msgsize: 128}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(ptr(name)), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o666, uintptr(ptr(&attr)), 0, 0)
	unix.Umask(old)
	require.Zero(t, errno, errno.Error())
	text := []byte(w.secret)
	require.NoError(t, errnoOf(unix.Syscall6(unix.SYS_MQ_TIMEDSEND, fd, uintptr(ptr(&text[0])), uintptr(len(text)), 0, 0, 0)))
	t.Cleanup(func() {
		closing(int(fd))
		require.NoError(t, errnoOf(unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(ptr(name)), 0, 0)))
	})
}

// arguments puts the world's parts into an attack's arguments.
func (w *world) arguments(list []string) []string {
	r := strings.NewReplacer(append(slices.Clip(w.further), "{dir}", w.dir, "{canary}", w.canary, "{secret}", w.secret, "{port}", strconv.Itoa(w.port), "{abstract}", w.abstract, "{socket}", w.socket,
		"{pid}", strconv.Itoa(w.pid), "{shm}", strconv.Itoa(w.shm), "{shmkey}", strconv.Itoa(w.shmKey), "{queue}", w.queue, "{dev}", w.dev, "{uid}", strconv.Itoa(w.uid))...)
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = r.Replace(a)
	}
	return out
}

// look reads what an attack may have changed, whatever it says itself.
func (w *world) look(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	file := func(name string) {
		text, err := os.ReadFile(name)
		fmt.Fprintf(&b, "%s: %s %v\n", name, bytes.TrimSpace(text), err)
	}
	file(w.canary)
	for _, n := range []string{
		"kernel/hostname", "kernel/domainname", "kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "kernel/hotplug", "kernel/panic", "kernel/shmmax",
		"kernel/msgmax", "vm/overcommit_memory", "net/ipv4/ip_forward", "fs/suid_dumpable", "kernel/unprivileged_bpf_disabled", "kernel/perf_event_paranoid",
	} {
		file("/proc/sys/" + n)
	}
	file("/proc/swaps")
	modules, err := os.ReadFile("/proc/modules")
	for line := range strings.Lines(string(modules)) {
		name, _, _ := strings.Cut(line, " ") // without how many use it: a container may
		fmt.Fprintln(&b, "module", name)
	}
	fmt.Fprintln(&b, err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		// Other tests mount on folders of their own meanwhile, and a first mount of fuse
		// brings its controls.
		if f := strings.Fields(line); !strings.HasPrefix(f[1], os.TempDir()+"/") && !strings.HasPrefix(f[1], "/tmp/") && f[2] != "fusectl" {
			b.WriteString(line)
		}
	}
	fmt.Fprintln(&b, err)
	entries, err := os.ReadDir(w.dir)
	fmt.Fprintln(&b, entries, err)
	var st unix.Stat_t
	err = unix.Stat(w.canary, &st)
	fmt.Fprintln(&b, "canary", st.Mode, st.Uid, st.Gid, st.Nlink, err)
	links, err := net.Interfaces()
	fmt.Fprintln(&b, links, err)
	prio, err := unix.Getpriority(unix.PRIO_PROCESS, w.pid)
	fmt.Fprintln(&b, "victim", prio, err)
	for _, n := range []string{"limits", "oom_score_adj"} {
		file(fmt.Sprintf("/proc/%d/%s", w.pid, n))
	}
	return b.String()
}

// unharmed fails the test where the world has changed.
func (w *world) unharmed(t testing.TB) {
	t.Helper()
	require.Equal(t, w.before, w.look(t), "an attack changed the host")
	require.NoError(t, syscall.Kill(w.pid, 0), "an attack ended a process of the host")
}
