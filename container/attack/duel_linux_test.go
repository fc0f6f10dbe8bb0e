package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// attacksOnNeighbours are on what a victim has; the victim itself is among them, so
// that the program has it. Their arguments are a victim's names and numbers.
var attacksOnNeighbours = []attack{
	{name: attackGo("duel-victim", beVictim)},
	{name: attackGo("duel-dial", dial)},
	{name: attackGo("duel-file", stealFile)},
	{name: attackGo("duel-shm", stealSegment)},
	{name: attackGo("duel-queue", stealMessage)},
	{name: attackGo("duel-environment", stealEnvironment)},
	{name: attackGo("duel-signal", signalAll)},
	{name: attackGo("duel-remove", removeAll)},
}

// prey is what a victim says of itself.
type prey struct {
	Secret string
	Tag    string // the name of what has one
	Port   int
	PID    int // inside
	Shm    int
	ShmKey int
}

func (v prey) socket() string   { return "/tmp/duel-" + v.Tag + ".socket" }
func (v prey) abstract() string { return "@duel-" + v.Tag }
func (v prey) file() string     { return "/tmp/duel-" + v.Tag }
func (v prey) memory() string   { return "/dev/shm/duel-" + v.Tag }
func (v prey) queue() string    { return "duel-" + v.Tag }

// state is a victim's report.
type state struct {
	Visitors int64 // connections
	Signals  int64
	Harm     []string
}

// beVictim makes all that a prey has, open to everybody, and reports for each line
// of its input until that ends: TAG SECRET SEGMENTS.
func beVictim(args []string) (string, error) {
	v := prey{Tag: args[0], Secret: args[1], PID: os.Getpid(), ShmKey: 0xd0e1}
	unix.Umask(0)
	var visitors, signals atomic.Int64
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	v.Port = tcp.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it was asked for
	named, err := net.Listen("unix", v.socket())
	if err != nil {
		return "", err
	}
	abstract, err := net.Listen("unix", v.abstract())
	if err != nil {
		return "", err
	}
	for _, l := range []net.Listener{tcp, named, abstract} {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				visitors.Add(1)
				_, _ = io.WriteString(c, v.Secret) // the visitor may be gone
				_ = c.Close()
			}
		}()
	}
	for _, name := range []string{v.file(), v.memory()} {
		if err := os.WriteFile(name, []byte(v.Secret), 0o666); err != nil { //nolint:gosec // open to everybody
			return "", err
		}
	}
	// Ids are given in turn: after these it is not the other victim's, nor the host's.
	segments, err := strconv.Atoi(args[2])
	if err != nil {
		return "", err
	}
	for range segments {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o600)
		if err != nil {
			return "", err
		}
		if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
			return "", err
		}
	}
	if v.Shm, err = unix.SysvShmGet(v.ShmKey, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o666); err != nil {
		return "", fmt.Errorf("shmget: %w", err)
	}
	mem, err := unix.SysvShmAttach(v.Shm, 0, 0)
	if err != nil {
		return "", fmt.Errorf("shmat: %w", err)
	}
	copy(mem, v.Secret)
	queue, err := openQueue(v.queue(), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NONBLOCK)
	if err != nil {
		return "", fmt.Errorf("mq_open: %w", err)
	}
	if err := sendMessage(queue, v.Secret); err != nil {
		return "", err
	}
	got := make(chan os.Signal, 16)
	signal.Notify(got, syscall.SIGUSR1)
	go func() {
		for range got {
			signals.Add(1)
		}
	}()
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		return "", err
	}
	asked := bufio.NewScanner(os.Stdin)
	for asked.Scan() {
		if err := json.NewEncoder(os.Stdout).Encode(state{visitors.Load(), signals.Load(), v.harm(string(mem[:len(v.Secret)]), queue)}); err != nil {
			return "", err
		}
	}
	return "unharmed", asked.Err()
}

// harm is what is not as the victim made it.
func (v prey) harm(segment string, queue int) []string {
	var out []string
	wrong := func(what, got string, err error) {
		if err != nil || got != v.Secret {
			out = append(out, fmt.Sprintf("%s: %.60q %v", what, got, err))
		}
	}
	for _, name := range []string{v.file(), v.memory()} {
		text, err := os.ReadFile(name)
		wrong(name, string(text), err)
	}
	wrong("segment", segment, nil)
	if id, err := unix.SysvShmGet(v.ShmKey, 0, 0); err != nil || id != v.Shm {
		out = append(out, fmt.Sprintf("segment: %d %v", id, err))
	}
	if _, err := os.Lstat(v.socket()); err != nil {
		out = append(out, err.Error())
	}
	// Taken out and put back.
	text, err := takeMessage(queue)
	wrong("queue", text, err)
	if err == nil {
		if err := sendMessage(queue, text); err != nil {
			out = append(out, err.Error())
		}
	}
	return out
}

func openQueue(name string, flags int) (int, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	attr := struct {
		flags, maxmsg, msgsize, curmsgs int64
		_                               [4]int64
	}{maxmsg: 4, msgsize: 128}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(ptr(p)), uintptr(flags|unix.O_CLOEXEC), 0o666, uintptr(ptr(&attr)), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func sendMessage(fd int, text string) error {
	b := []byte(text)
	return errnoOf(unix.Syscall6(unix.SYS_MQ_TIMEDSEND, uintptr(fd), uintptr(ptr(&b[0])), uintptr(len(b)), 0, 0, 0))
}

func takeMessage(fd int) (string, error) {
	b := make([]byte, 128)
	n, _, errno := unix.Syscall6(unix.SYS_MQ_TIMEDRECEIVE, uintptr(fd), uintptr(ptr(&b[0])), uintptr(len(b)), 0, 0, 0)
	if errno != 0 {
		return "", errno
	}
	return string(b[:n]), nil
}

// is tells whether what was got is the secret.
func is(got, secret string) (string, error) {
	if !strings.Contains(got, secret) {
		return "", fmt.Errorf("not the secret: %.60q", got)
	}
	return got, nil
}

// dial connects: SECRET NETWORK ADDRESS.
func dial(args []string) (string, error) {
	c, err := net.Dial(args[1], args[2])
	if err != nil {
		return "", err
	}
	defer c.Close() //nolint:errcheck // the job ends
	text, err := io.ReadAll(c)
	if err != nil {
		return "", err
	}
	return is(string(text), args[0])
}

// stealFile reads the first file that can be read: SECRET PATH...
func stealFile(args []string) (string, error) {
	var all error
	for _, name := range args[1:] {
		text, err := os.ReadFile(name)
		if err == nil {
			_, err = is(string(text), args[0])
		}
		if err == nil {
			return "read " + name, nil
		}
		all = errors.Join(all, err)
	}
	return "", all
}

// stealSegment attaches a segment by its id or by its key: SECRET id|key NUMBER.
func stealSegment(args []string) (string, error) {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return "", err
	}
	if args[1] == "key" {
		if n, err = unix.SysvShmGet(n, 0, 0); err != nil {
			return "", fmt.Errorf("shmget: %w", err)
		}
	}
	mem, err := unix.SysvShmAttach(n, 0, unix.SHM_RDONLY)
	if err != nil {
		return "", fmt.Errorf("shmat: %w", err)
	}
	return is(string(mem[:min(len(mem), 256)]), args[0])
}

// stealMessage takes a message from a queue: SECRET NAME.
func stealMessage(args []string) (string, error) {
	fd, err := openQueue(args[1], unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return "", fmt.Errorf("mq_open: %w", err)
	}
	text, err := takeMessage(fd)
	if err != nil {
		return "", fmt.Errorf("mq_timedreceive: %w", err)
	}
	return is(text, args[0])
}

// stealEnvironment reads the environments of processes: SECRET PID...
func stealEnvironment(args []string) (string, error) {
	names := []string{args[0]}
	for _, pid := range args[1:] {
		names = append(names, "/proc/"+pid+"/environ")
	}
	return stealFile(names)
}

// signalAll sends SIGUSR1 to processes: PID...
func signalAll(args []string) (string, error) {
	signal.Ignore(syscall.SIGUSR1)
	var all error
	sent := 0
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			return "", err
		}
		if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
			all = errors.Join(all, err)
		} else {
			sent++
		}
	}
	if sent == 0 {
		return "", all
	}
	return fmt.Sprintf("sent %d", sent), nil
}

// removeAll destroys what a victim has: SHM-ID QUEUE PATH...
func removeAll(args []string) (string, error) {
	id, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	_, all := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	name, err := unix.BytePtrFromString(args[1])
	if err != nil {
		return "", err
	}
	done := 0
	for _, err := range []error{all, errnoOf(unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(ptr(name)), 0, 0))} {
		if err == nil {
			done++
		}
	}
	for _, path := range args[2:] {
		if err := os.Remove(path); err != nil {
			all = errors.Join(all, err)
		} else {
			done++
		}
	}
	if done == 0 {
		return "", all
	}
	return fmt.Sprintf("removed %d", done), nil
}

// blow is one attack in a container.
type blow struct {
	what string
	attack
	by container.JobOption // whose; without it the victim's user's
	// silent: whether it succeeded only the victim can tell.
	silent bool
}

// signals is a signal to each number that the victim has, inside and on the host: in
// another container they may be somebody else's.
func (v prey) signals(hostPID int) blow {
	return blow{what: "signal", silent: true, attack: attack{name: "duel-signal", args: []string{strconv.Itoa(v.PID), strconv.Itoa(hostPID)}}}
}

// blows are all other attacks on a prey. Those that take something away come last.
func (v prey) blows(hostPID int) []blow {
	pids := []string{strconv.Itoa(v.PID), strconv.Itoa(hostPID)}
	files := func(name string) []string {
		list := []string{v.Secret, name}
		for _, pid := range pids {
			list = append(list, filepath.Join("/proc", pid, "root", name), filepath.Join("/proc", pid, "cwd", name))
		}
		return list
	}
	hit := func(what, name string, args ...string) blow {
		return blow{what: what, attack: attack{name: name, args: args}}
	}
	return []blow{
		hit("TCP", "duel-dial", v.Secret, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(v.Port))),
		hit("abstract socket", "duel-dial", v.Secret, "unix", v.abstract()),
		hit("named socket", "duel-dial", v.Secret, "unix", v.socket()),
		hit("file", "duel-file", files(v.file())...),
		hit("memory file", "duel-file", files(v.memory())...),
		hit("segment by id", "duel-shm", v.Secret, "id", strconv.Itoa(v.Shm)),
		hit("segment by key", "duel-shm", v.Secret, "key", strconv.Itoa(v.ShmKey)),
		hit("environment", "duel-environment", append([]string{v.Secret}, pids...)...),
		hit("queue", "duel-queue", v.Secret, v.queue()),
		hit("removal", "duel-remove", strconv.Itoa(v.Shm), v.queue(), v.file(), v.memory(), v.socket()),
	}
}

// duellist is a container with a victim in it.
type duellist struct {
	prey
	c       *container.Container
	hostPID int
	user    container.JobOption // the victim's
	ask     io.Writer
	said    *json.Decoder
}

// newDuellist starts a container and the victim. number tells the two apart wherever
// the kernel counts.
func newDuellist(t *testing.T, w *world, p programs, number int, user container.JobOption) *duellist {
	t.Helper()
	d := &duellist{c: startContainer(t, p), user: user}
	// Each has taken some numbers before: none of the one's is the other's.
	proc, err := d.c.Exec(t.Context(), container.WithCommand("sh", "-c", `i=0; while [ $i -lt $0 ]; do (exit 0); i=$((i+1)); done`, strconv.Itoa(100*number)))
	require.NoError(t, err)
	res, err := proc.Wait(t.Context())
	require.NoError(t, err)
	require.NoError(t, res.Err())
	in, ask := io.Pipe()
	said, out := io.Pipe()
	tag := fmt.Sprintf("%d-%d", os.Getpid(), number)
	secret := fmt.Sprintf("%s-of-%d", w.secret, number)
	a := attack{name: "duel-victim", args: []string{tag, secret, strconv.Itoa(10 * number)}}
	proc, err = d.c.Exec(t.Context(), a.command(w), container.WithEnv("SECRET="+secret), user, container.WithStdin(in), container.WithStdout(out), container.WithStderr(os.Stderr))
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-proc.Done()
		_ = out.Close() // whoever reads then knows
	}()
	d.ask, d.said = ask, json.NewDecoder(said)
	t.Cleanup(func() {
		require.NoError(t, ask.Close())
		rest := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, io.MultiReader(d.said.Buffered(), said))
			rest <- err
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		res, err := proc.Wait(ctx)
		require.NoError(t, err)
		require.NoError(t, res.Err())
		<-ended
		require.NoError(t, <-rest)
	})
	require.NoError(t, d.said.Decode(&d.prey))
	d.hostPID = pidOnHost(t, secret)
	return d
}

// pidOnHost finds the process that has this among its arguments.
func pidOnHost(t *testing.T, arg string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && slices.Contains(strings.Split(string(cmdline), "\x00"), arg) {
			return pid
		}
	}
	t.Fatal("the victim has no number on the host")
	return 0
}

// report asks the victim how it is.
func (d *duellist) report(t *testing.T) state {
	t.Helper()
	_, err := io.WriteString(d.ask, "\n")
	require.NoError(t, err)
	var s state
	require.NoError(t, d.said.Decode(&s), "the victim is gone")
	return s
}

// Two containers attack each other, by each other's names, numbers and addresses and
// with all that the table has, at the same time: neither gets anything of the other's,
// nor harms it. Against their own container's victim the same attacks succeed.
func TestDuel(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	p := attackPrograms(t)
	root, user := container.WithUser(0, 0), container.WithUser(1000, 1000)
	for _, k := range []struct {
		name string
		// What the table's attacks do within their own container is no concern of this
		// test, so they are another user's than the victim there.
		victim, attacker container.JobOption
	}{
		{"root attacks", user, root},
		{"an ordinary user attacks", root, user},
	} {
		t.Run(k.name, func(t *testing.T) {
			containertest.Require(t, containertest.Users)
			duel(t, p, k.victim, k.attacker)
		})
	}
	t.Run("one user", func(t *testing.T) { duel(t, p, root, nil) })
}

// duel fights it out; without an attacker the table's attacks are left out.
func duel(t *testing.T, p programs, victim, attacker container.JobOption) {
	t.Helper()
	w := newWorld(t)
	pair := []*duellist{newDuellist(t, w, p, 1, victim), newDuellist(t, w, p, 2, victim)}
	// First, while the numbers of processes are nobody else's.
	both(pair, func(d, other *duellist) {
		d.strike(t, w, false, other.signals(other.hostPID))
		d.strike(t, w, false, other.blows(other.hostPID)...)
	})
	for _, d := range pair {
		require.Equal(t, state{}, d.report(t), "the other container reached the victim")
	}
	if attacker != nil {
		both(pair, func(d, other *duellist) {
			var all sync.WaitGroup
			all.Go(func() { d.strike(t, w, false, other.blows(other.hostPID)...) })
			all.Go(func() {
				for _, a := range attacks {
					if !a.worthwhile("") {
						continue
					}
					d.strike(t, w, false, blow{what: a.name, attack: a, by: attacker})
				}
			})
			all.Wait()
		})
	}
	for _, d := range pair {
		s := d.report(t)
		require.Empty(t, s.Harm)
		require.Zero(t, s.Signals)
	}
	w.unharmed(t)
	// The proof that all this can succeed, and would be seen.
	for _, d := range pair {
		before := d.report(t)
		d.strike(t, w, true, d.signals(d.hostPID))
		d.strike(t, w, true, d.blows(d.hostPID)...)
		s := d.report(t)
		for deadline := time.Now().Add(patience); s.Signals == 0 && time.Now().Before(deadline); { // it is delivered in its own time
			s = d.report(t)
		}
		require.EqualValues(t, 1, s.Signals)
		require.EqualValues(t, 3, s.Visitors-before.Visitors)
		require.Len(t, s.Harm, 5, "%q", s.Harm)
	}
}

// both has the two do something to each other at the same time.
func both(pair []*duellist, f func(d, other *duellist)) {
	var all sync.WaitGroup
	for i, d := range pair {
		all.Go(func() { f(d, pair[1-i]) })
	}
	all.Wait()
}

// strike makes attacks in the duellist's container, all of which are to succeed or all
// to fail. It may run in any goroutine.
func (d *duellist) strike(t *testing.T, w *world, succeeds bool, list ...blow) {
	t.Helper()
	for _, b := range list {
		by := b.by
		if by == nil {
			by = d.user
		}
		v, err := execIn(d.c, w, by)(t, b.attack)
		if err != nil {
			t.Errorf("%s: %v", b.what, err)
		} else if !b.silent && v.escaped != succeeds {
			t.Errorf("%s: %v", b.what, v)
		}
	}
}
