package launcher

import (
	"context"
	"encoding/binary"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

// script reads choices from what a fuzzer made up; zeros follow its end.
type script struct{ rest []byte }

func (s *script) next() int {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return int(b)
}

// pretender plays a launcher, its inits and their jobs, and tells the host what a
// script says.
type pretender struct {
	t     *testing.T
	l     *Launcher
	sock  int   // the launcher's end
	inits []int // the inits' ends, -1: closed
	// lives are the writing ends of pipes: a reading end stands for a pidfd, which
	// can be read once what it stands for has ended.
	lives   []int
	disk    int // a regular file, which no poller takes
	waiting sync.WaitGroup
	empties []*atomic.Int32
	exits   []*atomic.Int32
	all     []*Init
	jobs    []*Job
}

func (p *pretender) close(fd *int) {
	if *fd >= 0 {
		require.NoError(p.t, unix.Close(*fd))
		*fd = -1
	}
}

// life is a descriptor that stands for a pidfd.
func (p *pretender) life() int {
	var fds [2]int
	require.NoError(p.t, unix.Pipe2(fds[:], unix.O_CLOEXEC))
	p.lives = append(p.lives, fds[1])
	return fds[0]
}

// say sends one answer, or what is none, with descriptors.
func (p *pretender) say(sock int, a rawproc.Answer, s *script) {
	if sock < 0 {
		return
	}
	text, err := binary.Append(nil, binary.LittleEndian, &a)
	require.NoError(p.t, err)
	var fds []int
	switch s.next() % 8 {
	case 1, 2:
		fds = []int{p.life()}
	case 3: // of what has ended
		fds = []int{p.life()}
		p.close(&p.lives[len(p.lives)-1])
	case 4:
		fds = []int{p.life(), p.life()}
	case 5:
		fd, err := unix.FcntlInt(uintptr(p.disk), unix.F_DUPFD_CLOEXEC, 0)
		require.NoError(p.t, err)
		fds = []int{fd}
	case 6: // more than there is room for
		for range 20 {
			fds = append(fds, p.life())
		}
	}
	switch s.next() {
	case 1:
		text = text[:s.next()%len(text)] // perhaps empty
	case 2:
		text = append(text, 0)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	err = unix.Sendmsg(sock, text, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if err != nil { // it has been given up, or does not read
		require.Contains(p.t, []error{unix.EPIPE, unix.ECONNRESET, unix.EAGAIN}, err)
	}
	for i := range fds {
		p.close(&fds[i])
	}
}

// heed waits until the host has taken what was said: the poller goes through what
// is readable in its order.
func (p *pretender) heed() {
	var fds [2]int
	require.NoError(p.t, unix.Pipe2(fds[:], unix.O_CLOEXEC))
	seen := make(chan struct{})
	require.NoError(p.t, p.l.Watch(fds[0], sync.OnceFunc(func() { close(seen) })))
	_, err := unix.Write(fds[1], []byte{0})
	require.NoError(p.t, err)
	p.await(seen, "the poller")
	p.l.Unwatch(fds[0])
	p.close(&fds[0])
	p.close(&fds[1])
}

func (p *pretender) await(c <-chan struct{}, what string) {
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		buf := make([]byte, 1<<20)
		require.FailNow(p.t, "a deadlock", "%s:\n%s", what, buf[:runtime.Stack(buf, true)])
	}
}

// spawn asks for an init, and takes the init's end of its socket out of the request.
func (p *pretender) spawn(ctx context.Context, teardown int) {
	if len(p.all) >= 4 {
		return
	}
	n := new(atomic.Int32)
	i, err := p.l.Spawn(ctx, &Request{Plans: make([]byte, teardown), Teardown: teardown, OnEmpty: func() { n.Add(1) }})
	if err != nil {
		require.ErrorIs(p.t, err, ErrDied)
		return
	}
	p.empties, p.all = append(p.empties, n), append(p.all, i)
	for {
		buf, oob := make([]byte, 4096), make([]byte, 256)
		n, oobn, _, _, err := unix.Recvmsg(p.sock, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		require.NoError(p.t, err)
		fd, _, err := control(oob[:oobn])
		require.NoError(p.t, err)
		if n >= rawproc.HeaderSize && binary.LittleEndian.Uint32(buf) == rawproc.OpSpawn {
			p.inits = append(p.inits, fd)
			return
		}
	}
}

// act does one thing of the script.
func (p *pretender) act(ctx context.Context, s *script) {
	pick := s.next()
	id := func(n int) uint32 { return uint32(s.next() % max(n, 1)) } // of the first few, or none's
	answer := rawproc.Answer{}
	fill := func() {
		answer.Phase, answer.Step = uint32(s.next()%8), uint32(s.next())
		if e := s.next(); e < 128 {
			answer.Errno = uint32(e % 2 * e)
		}
		answer.PID, answer.Status = uint32(s.next()), uint32(s.next())<<8|uint32(s.next())
		answer.Time, answer.User, answer.MaxRSS = -int64(s.next()), int64(s.next())<<56, -1
	}
	one := func() int { return s.next() % len(p.all) }
	switch what := pick % 12; {
	case what == 0:
		p.spawn(ctx, s.next()%2)
	case what == 1:
		answer.Op, answer.ID = []uint32{rawproc.AnsSpawned, rawproc.AnsGone, rawproc.AnsHeld, rawproc.AnsReady, 99}[s.next()%5], id(6)
		fill()
		p.say(p.sock, answer, s)
	case what == 2:
		p.waiting.Add(1)
		asked := make(chan struct{})
		go func() {
			defer p.waiting.Done()
			close(asked)
			_ = p.l.keep(ctx, plan.NewBuilder(plan.Teardown, Arch, &plan.Registers{}).Plan(), rawproc.FirstHeld, nil, 0) // whatever comes of it
		}()
		<-asked
	case len(p.all) == 0:
		p.spawn(ctx, 0)
	case what <= 5:
		to := one()
		answer.Op = []uint32{rawproc.AnsSetup, rawproc.AnsStarted, rawproc.AnsExited, rawproc.AnsEmpty, rawproc.AnsOpened, rawproc.AnsSpawned, 99}[s.next()%7]
		answer.ID = id(5)
		fill()
		p.say(p.inits[to], answer, s)
	case what <= 7:
		n := new(atomic.Int32)
		j, err := p.all[one()].Start(ctx, &JobRequest{Main: s.next()%2 == 1, OnExit: func(*Job) { n.Add(1) }})
		if err == nil {
			p.jobs, p.exits = append(p.jobs, j), append(p.exits, n)
		}
	case what == 8:
		i := p.all[one()]
		socket := pick >= 128
		p.waiting.Add(1)
		asked := make(chan struct{})
		go func() {
			defer p.waiting.Done()
			close(asked)
			var fd int
			var err error
			if socket {
				fd, err = i.Socket(ctx, &SocketRequest{Address: []byte("/x/y"), Path: true, Backlog: 1})
			} else {
				fd, err = i.Open(ctx, "/x", false)
			}
			if err == nil {
				_ = unix.Close(fd) // of a pipe
			}
		}()
		<-asked
	case what == 9:
		p.close(&p.inits[one()])
	case what == 10 && len(p.lives) > 0:
		p.close(&p.lives[s.next()%len(p.lives)])
	default:
		i := p.all[one()]
		_ = i.Kill()       // it need not be there
		_ = i.KillAll(ctx) // nor hear
		for _, j := range p.jobs {
			_ = j.Signal(unix.SIGTERM)
			_ = j.SignalGroup(ctx, unix.SIGTERM)
		}
	}
	p.heed()
}

// descriptors are those of this process, by what they lead to.
func descriptors(t *testing.T) []string {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var out []string
	for _, e := range list {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil {
			to, _, _ = strings.Cut(to, ":[")
			out = append(out, to)
		}
	}
	sort.Strings(out)
	return out
}

// play is one script, to its end and beyond.
func play(t *testing.T, disk int, text []byte) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	host, peer, err := socketpair()
	require.NoError(t, err)
	const nobody = 1 << 30 // above all process ids
	p := &pretender{t: t, sock: peer, disk: disk, l: &Launcher{
		sock: host, pid: nobody, pidfd: -1, inits: map[uint32]*Init{}, held: map[uint32]chan error{}, states: map[string]*State{},
	}}
	require.NoError(t, p.l.retain())
	s := &script{text}
	for n := 0; n < 40 && len(s.rest) > 0; n++ {
		p.act(ctx, s)
	}
	// All end: jobs, inits, the launcher. Nothing may wait any longer.
	for i := range p.lives {
		p.close(&p.lives[i])
	}
	for i := range p.inits {
		p.close(&p.inits[i])
	}
	p.close(&p.sock)
	p.heed()
	for _, i := range p.all {
		p.await(i.Done(), "an init")
		p.await(i.ready, "an init's beginning")
		p.await(i.setup, "an init's setup")
	}
	for _, j := range p.jobs {
		p.await(j.Started, "a job's beginning")
		p.await(j.Exited, "a job's end")
		if j.Err() != nil {
			require.Nil(t, j.Exit(), "a job that did not begin has no end")
		}
	}
	over := make(chan struct{})
	go func() {
		p.waiting.Wait()
		close(over)
	}()
	p.await(over, "a request")
	for _, i := range p.all {
		i.forget()
	}
	p.l.Release() // which waits for the poller, and so for all calls
	require.True(t, p.l.isDead)
	for _, n := range append(p.empties, p.exits...) {
		require.EqualValues(t, 1, n.Load(), "OnEmpty, OnExit")
	}
}

// Whatever a launcher and its inits answer, in whatever order and with whatever
// descriptors: everything that waits for them ends, once, and no descriptor is left.
func FuzzAnswers(f *testing.F) {
	const spawn, launcher, hold, init, job, open, socket, hangUp, end, kill = 0, 1, 2, 3, 6, 8, 140, 9, 10, 11
	const spawned, gone, held = 0, 1, 2
	const setup, started, exited, empty, opened = 0, 1, 2, 3, 4
	answer := func(rest ...byte) []byte { return append([]byte{0, 0, 0, 9, 0, 0, 0, 0}, rest...) } // no errno
	failed := func(rest ...byte) []byte { return append([]byte{5, 1, 1, 9, 0, 0, 0, 0}, rest...) }
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	from := func(who, what, id byte, a []byte) []byte { return append([]byte{who, what, id}, a...) }
	byInit := func(what, id byte, a []byte) []byte { return append([]byte{init, 0, what, id}, a...) }
	begin := join([]byte{spawn, 0}, from(launcher, spawned, 1, answer(1, 0)), byInit(setup, 0, answer(0, 0)), []byte{job, 0, 1})
	for _, s := range [][]byte{
		join(begin, byInit(started, 1, answer(1, 0)), byInit(exited, 1, answer(0, 0)), byInit(empty, 0, answer(0, 0)), from(launcher, gone, 1, answer(0, 0))),
		join(begin, byInit(started, 1, answer(1, 0)), byInit(started, 1, answer(1, 0))),
		join(begin, byInit(started, 1, answer(1, 0)), byInit(started, 1, failed(1, 0))),
		join(begin, byInit(started, 1, failed(1, 0)), byInit(started, 1, answer(1, 0))),
		join(begin, byInit(exited, 1, answer(0, 0)), byInit(started, 1, answer(1, 0))),
		join(begin, byInit(started, 1, answer(0, 0))),
		join(begin, byInit(started, 1, answer(5, 0))),
		join(begin, byInit(started, 1, answer(3, 0)), byInit(setup, 0, failed(4, 0)), []byte{kill, 0}),
		join(begin, byInit(started, 1, answer(6, 0)), []byte{hangUp, 0}),
		join(begin, byInit(started, 1, answer(1, 1, 50))),
		join(begin, byInit(started, 1, answer(1, 1, 0))),
		join(begin, byInit(started, 1, answer(1, 2)), []byte{end, 0, end, 1}),
		join(begin, []byte{open, 0}, byInit(opened, 2, answer(1, 0)), []byte{open, 0}, byInit(opened, 3, failed(1, 0)), []byte{open, 0}, byInit(opened, 4, answer(0, 0)), []byte{open, 0}),
		join(begin, []byte{socket, 0}, byInit(opened, 2, answer(1, 0)), []byte{socket, 0}, byInit(opened, 3, failed(1, 0)), []byte{socket, 0}, byInit(opened, 4, answer(0, 0)), []byte{socket, 0}),
		join([]byte{spawn, 0}, from(launcher, gone, 1, answer(0, 0)), from(launcher, spawned, 1, answer(1, 0))),
		join([]byte{spawn, 1}, from(launcher, spawned, 1, answer(1, 0)), from(launcher, spawned, 1, answer(1, 0))),
		join([]byte{spawn, 1}, from(launcher, spawned, 1, failed(4, 0)), []byte{job, 0, 0}),
		join([]byte{spawn, 1}, from(launcher, spawned, 1, answer(0, 0))),
		join([]byte{hold}, from(launcher, held, 1, answer(1, 0)), []byte{hold}, from(launcher, held, 2, failed(0, 0)), []byte{hold}),
		join(begin, from(launcher, spawned, 1, answer(1, 1, 7)), []byte{job, 0, 0}),
		join(begin, from(launcher, spawned, 1, answer(4, 1, 0)), []byte{spawn, 0, hold}),
	} {
		f.Add(s)
	}
	disk, err := unix.Open(filepath.Join(f.TempDir(), "file"), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, unix.Close(disk)) })
	warm := false
	f.Fuzz(func(t *testing.T, text []byte) {
		if !warm {
			play(t, disk, nil) // the runtime makes its own poller once
			warm = true
		}
		before := descriptors(t)
		play(t, disk, text)
		// A timer that looks after a job may be reading a file of /proc.
		after := descriptors(t)
		for begun := time.Now(); len(after) != len(before) && time.Since(begun) < 5*time.Second; after = descriptors(t) {
			runtime.Gosched()
		}
		require.Equal(t, before, after)
	})
}

// wholeLines are those of a text that are whole.
func wholeLines(text string) (out []string) {
	for line := range strings.Lines(text) {
		if l, ok := strings.CutSuffix(line, "\n"); ok {
			out = append(out, l)
		}
	}
	return out
}

// Whatever stands in /etc/subuid: the ranges that are taken from it are the user's,
// one beside the other, and those of others are not given to containers. Whatever
// stands in the owner file of a program that was killed: each whole line is cleaned
// up, what was cut is left alone, and the file goes.
func FuzzFiles(f *testing.F) {
	for _, text := range []string{
		"", "me:100000:65536\n", "me:100000:65536\nme:100000:65536\n1000:200000:70000\n", "you:524288:65536\n", "me:1:65535\nme:500:65535\n",
		"me:4294900000:65536\n", "me:9223372036854775807:9223372036854775807\n", "you:600000:9223372036854775807\n", "me:-5:65536\n", "me:x:65536:1\n::\n",
		"me:990:65536\nme:100000:30000\nme:200000:40000", "groups /sys/fs/cgroup/a\ngroups /sys/fs/cgr", "\n\n\x00\r\n", "you:589820:-9223372036854775808\n",
	} {
		f.Add(text, uint32(1000), uint8(1))
	}
	f.Add("groups /x\n", uint32(0), uint8(255))
	dir := filepath.Join(f.TempDir(), "state")
	subid := filepath.Join(f.TempDir(), "subid")
	names := []string{"1000", "me"}
	f.Fuzz(func(t *testing.T, text string, own uint32, times uint8) {
		own %= 1<<32 - 1
		require.NoError(t, os.WriteFile(subid, []byte(text), 0o600))
		list, listErr := user.ParseSubIDFile(subid)
		maps, err := ranges(subid, names, own)
		if err == nil {
			require.NoError(t, listErr)
			require.Equal(t, IDMap{0, own, 1}, maps[0])
			next := uint64(0)
			for n, m := range maps {
				require.EqualValues(t, next, m.Inside)
				require.NotZero(t, m.Size)
				require.LessOrEqual(t, uint64(m.Outside)+uint64(m.Size), uint64(1<<32-1))
				next += uint64(m.Size)
				for _, o := range maps[:n] {
					require.False(t, m.Outside < o.Outside+o.Size && o.Outside < m.Outside+m.Size, "%v", maps)
				}
				require.True(t, n == 0 || slices.ContainsFunc(list, func(s user.SubID) bool {
					return slices.Contains(names, s.Name) && s.SubID == int64(m.Outside) && s.Count >= int64(m.Size)
				}), "%v: not in the file", m)
			}
			require.GreaterOrEqual(t, next, uint64(RangeSize))
			require.LessOrEqual(t, next, uint64(RangeSize+1))
		}
		for _, first := range []uint32{FirstID, FirstID + RangeSize, 1<<32 - 2*RangeSize} {
			foreign := slices.ContainsFunc(list, func(s user.SubID) bool {
				end := new(big.Int).Add(big.NewInt(s.SubID), big.NewInt(s.Count))
				return s.Count > 0 && s.SubID < int64(first)+RangeSize && end.Cmp(big.NewInt(int64(first))) > 0
			})
			require.Equal(t, foreign, overlaps(list, first), "%d", first)
		}

		text = strings.Repeat(text, min(int(times), 1+(1<<18)/(1+len(text))))
		require.NoError(t, os.Mkdir(dir, 0o700))
		file := filepath.Join(dir, "owner-1-0")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		var seen []string
		removed, kept, err := PruneState(dir, func(line string) (string, error) {
			seen = append(seen, line)
			return line, nil
		})
		require.NoError(t, err)
		require.Empty(t, kept)
		require.Equal(t, wholeLines(text), seen)
		require.Equal(t, append(slices.DeleteFunc(slices.Clone(seen), func(s string) bool { return s == "" }), file), removed)
		require.NoDirExists(t, dir, "its last user removes it")
	})
}
