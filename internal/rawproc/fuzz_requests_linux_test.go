//go:build amd64 || arm64

package rawproc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
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

func (s *script) word() uint32 {
	return uint32(s.next()) | uint32(s.next())<<8 | uint32(s.next())<<16 | uint32(s.next())<<24
}

// odd is a number that something may be off by.
func (s *script) odd() uint64 {
	list := []uint64{1, 8, 64, 4096, 1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 63, math.MaxUint64, math.MaxUint64 - 7}
	if i := s.next(); i < len(list) {
		return list[i]
	}
	return uint64(s.word())
}

// client is the far end of a launcher's or an init's socket. Requests are sent
// before their reader begins.
type client struct {
	t        testing.TB
	host     int
	null     int
	payloads [][]byte
	asked    map[[2]uint32]int // by operation and id
}

// above moves a descriptor to where none of the raw code's own numbers are.
func above(t testing.TB, fd int) int {
	t.Helper()
	to, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 100)
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	return to
}

func pair(t testing.TB) (host, peer int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	return above(t, fds[0]), above(t, fds[1])
}

// memfd holds the bytes; seals are missing where they are missing from the mask.
func (c *client) memfd(content []byte, seals int) int {
	fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	require.NoError(c.t, err)
	if len(content) > 0 {
		n, err := unix.Write(fd, content)
		require.NoError(c.t, err)
		require.Equal(c.t, len(content), n)
	}
	if seals != 0 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		require.NoError(c.t, err)
	}
	return fd
}

// send is one message; false: there is no more room.
func (c *client) send(text []byte, fds []int) bool {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	err := unix.Sendmsg(c.host, text, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ETOOMANYREFS) || errors.Is(err, unix.EMSGSIZE) {
		return false
	}
	require.NoError(c.t, err)
	return true
}

func header(h Header) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, h) // a fixed struct always encodes
	return b.Bytes()
}

// ask sends the request that the script describes, in one message or several.
func (c *client) ask(s *script, serving bool) bool {
	ops := []uint32{OpSetup, OpJob, OpSignal, OpOpen, OpKillAll, OpKill, OpGo, OpMore, 0, 99}
	if serving {
		ops = []uint32{OpSpawn, OpHold, OpGo, OpMore, OpSetup, 0, 99}
	}
	what := s.next()
	if what == 255 {
		return c.send(make([]byte, s.next()), nil) // shorter than a header, perhaps empty
	}
	h := Header{Op: ops[what%len(ops)], ID: uint32(s.next()), Flags: uint32(s.next()) &^ FlagMemfd, Register: uint32(s.next())}
	first, second := c.payloads[s.next()%len(c.payloads)], c.payloads[s.next()%len(c.payloads)]
	body := append(append([]byte(nil), first...), second...)
	switch h.Op {
	case OpSetup:
		h.Prepare, h.Parent = uint32(len(first)), uint32(len(second))
	case OpSpawn:
		h.Prepare, h.Parent, h.Teardown = 0, uint32(len(first)), uint32(len(second))
		switch s.next() % 4 {
		case 1, 3:
			h.Prepare, h.Parent = h.Parent, 0
		case 2:
			h.StepIn, h.Teardown = h.Teardown, 0
		}
	case OpOpen:
		last := s.next()
		body = append([]byte("/x"), byte(last))
		if last >= 128 {
			h.Flags |= FlagSocket
			h.Prepare, h.Parent, h.StepIn = uint32(last), uint32(last), uint32(last)
		}
	default:
		body = first
	}
	h.Size = uint64(len(body))
	h.Signal, h.ProcReg, h.Cgroup = uint32(s.next()), uint32(s.next()), uint32(s.next()&^0x7f)
	fds := make([]int, s.next()%4)
	many := 0
	mem := -1
	defer func() {
		if mem >= 0 {
			require.NoError(c.t, unix.Close(mem))
		}
	}()
	for i := range fds {
		fds[i] = c.null
	}
	// What may be wrong with it.
	switch s.next() % 16 {
	case 1:
		h.Size += s.odd()
	case 2:
		h.FDs += uint32(s.odd())
	case 3:
		h.Prepare += uint32(s.odd())
	case 4:
		h.Parent += uint32(s.odd())
	case 5:
		if h.StepIn > 0 {
			h.StepIn += uint32(s.odd())
		} else {
			h.Teardown += uint32(s.odd())
		}
	case 6:
		h.Register = uint32(s.odd())
	case 7:
		h.ProcReg = uint32(s.odd())
	case 8:
		h.Cgroup = uint32(s.odd())
	case 9: // a memfd as it should be
		seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		mem = c.memfd(body, seals&^s.next()) // unless some are missing
		h.Flags |= FlagMemfd
	case 10: // whose size is another
		mem = c.memfd(body, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
		h.Flags |= FlagMemfd
		h.Size += s.odd()
	case 11: // that is none
		h.Flags |= FlagMemfd
	case 12: // as many descriptors as fit, and more messages of them
		fds = make([]int, 253)
		for i := range fds {
			fds[i] = c.null
		}
		many = s.next() % 8
	case 13:
		body = append(body, make([]byte, 70_000)...) // truncated by the reader
	case 14:
		body = body[:s.next()%(len(body)+1)]
	}
	if mem >= 0 {
		fds = append([]int{mem}, fds...)
		body = nil
	}
	h.FDs += uint32(len(fds) + many*len(fds))
	c.asked[[2]uint32{h.Op, h.ID}]++
	if !c.send(append(header(h), body...), fds) {
		return false
	}
	for range many {
		if !c.send(header(Header{Op: OpMore}), fds) {
			return false
		}
	}
	return true
}

// heard reads all answers: each is one that was asked for, and no more often.
func (c *client) heard() {
	t := c.t
	told := map[[2]uint32]int{}
	for {
		buf, oob := make([]byte, 2*AnswerSize), make([]byte, 256)
		n, oobn, flags, _, err := unix.Recvmsg(c.host, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.ECONNRESET) {
			continue // it ended with something unread
		}
		if n == 0 || errors.Is(err, unix.EAGAIN) {
			return
		}
		require.NoError(t, err)
		require.Equal(t, AnswerSize, n)
		require.Zero(t, flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC))
		var a Answer
		_, err = binary.Decode(buf[:n], binary.LittleEndian, &a)
		require.NoError(t, err)
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		require.NoError(t, err)
		for i := range messages {
			fds, err := unix.ParseUnixRights(&messages[i])
			require.NoError(t, err)
			require.Len(t, fds, 1)
			require.Zero(t, a.Errno)
			require.NoError(t, unix.Close(fds[0]))
		}
		op, known := map[uint32]uint32{
			AnsSpawned: OpSpawn, AnsGone: OpSpawn, AnsHeld: OpHold, AnsSetup: OpSetup, AnsStarted: OpJob, AnsOpened: OpOpen,
			AnsReady: 0, AnsMaps: 0, AnsEmpty: OpKillAll,
		}[a.Op]
		require.True(t, known, "%+v", a)
		switch a.Op {
		case AnsReady, AnsMaps, AnsEmpty:
			require.Zero(t, a.ID)
		default:
			told[[2]uint32{a.Op, a.ID}]++
			require.LessOrEqual(t, told[[2]uint32{a.Op, a.ID}], c.asked[[2]uint32{op, a.ID}], "%+v", a)
		}
	}
}

// A launcher and an init that are sent rubbish refuse it or end: by themselves,
// within a time, and with nothing of theirs left. The plans in it are harmless, and
// the system calls of their steps are not made: FuzzInterpret tries those.
func FuzzRequests(f *testing.F) {
	for _, mode := range []byte{0, 1, 2, 4, 5, 3} {
		for op := range byte(7) {
			for fault := range byte(16) {
				one := []byte{op, 7, 0, 1, 1, 2}
				if mode&1 != 0 && op == 0 || mode&1 == 0 && op == 3 { // one choice more
					one = append(one, 0)
				}
				one = append(one, 0, 9, 0, 1, fault)
				by := byte(4) // 65,536 too much
				if fault == 9 {
					by = 0
				}
				two := append(append([]byte(nil), one...), by, 0, 0, 0)
				f.Add(mode, uint16(1), uint16(38), two)
				if mode < 2 && fault%3 == 0 {
					f.Add(mode, uint16(0), uint16(0), append(append(append([]byte(nil), one[:len(one)-1]...), 0), two...))
				}
			}
		}
	}
	f.Add(byte(0), uint16(1), uint16(2), []byte{255, 0})
	f.Add(byte(1), uint16(1), uint16(2), []byte{255, 63})

	// What is left of a launcher becomes a child of this process, and is seen.
	require.NoError(f, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(f, err)
	null = above(f, null)
	f.Cleanup(func() { require.NoError(f, unix.Close(null)) })
	payloads := append(plans(f), nil, make([]byte, 31), bytes.Repeat([]byte{0xff}, 200), plans(f)[2][:100])
	r := newRaw(f)
	f.Fuzz(func(t *testing.T, mode byte, even, odd uint16, text []byte) {
		even, odd = even%4096, odd%4096
		if even == eintr || odd == eintr {
			return // a call that is interrupted is made again
		}
		host, peer := pair(t)
		channel, far := pair(t)
		defer func() {
			for _, fd := range []int{host, peer, channel, far} {
				require.NoError(t, unix.Close(fd))
			}
		}()
		c := &client{t: t, host: host, null: null, payloads: payloads, asked: map[[2]uint32]int{}}
		s := &script{text}
		r.reset()
		serving := mode&1 != 0
		made := []uint32{
			unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_PPOLL, unix.SYS_READ, unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_DUP3, unix.SYS_FCNTL, unix.SYS_LSEEK,
			unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_SIGNALFD4, unix.SYS_CLOCK_GETTIME, unix.SYS_WAIT4, unix.SYS_CLONE3, unix.SYS_SOCKETPAIR,
		}
		if serving {
			*r.order = order{do: doServe}
			r.w.sock, r.w.user = uintptr(peer), mode&2 != 0
			for _, nr := range []int32{unix.SYS_MOUNT, unix.SYS_SETRESUID, unix.SYS_SETRESGID} {
				if nr%2 == 0 {
					even = 0
				} else {
					odd = 0
				}
			}
			made = append(made, unix.SYS_KILL)
			if mode&4 == 0 {
				c.send(header(Header{Op: OpGo}), nil)
			}
		} else {
			*r.order = order{do: doInit}
			r.w.sock, r.w.pair = uintptr(peer), [2]int32{int32(null), int32(far)}
			// A job that init believes in: its signals are not made.
			r.w.jobs[0] = job{pid: 1 << 30, id: 7, flags: FlagMain}
			c.asked[[2]uint32{OpJob, 7}]++
			if mode&2 == 0 {
				begin := &client{t: t, host: channel}
				require.True(t, begin.send(header(Header{Op: OpGo}), nil))
			}
			if mode&4 == 0 {
				p := payloads[0]
				c.asked[[2]uint32{OpSetup, 0}]++
				require.True(t, c.send(append(header(Header{Op: OpSetup, Size: uint64(2 * len(p)), Prepare: uint32(len(p)), Parent: uint32(len(p))}), append(p[:len(p):len(p)], p...)...), nil))
			}
		}
		for range 16 {
			if len(s.rest) == 0 || !c.ask(s, serving) {
				break
			}
		}
		require.NoError(t, unix.Shutdown(host, unix.SHUT_WR))
		require.NoError(t, unix.Shutdown(channel, unix.SHUT_WR))
		r.answers(even, odd, made...)
		status := r.start(t)
		require.True(t, status.Exited(), "ended by %v", status.Signal())
		require.LessOrEqual(t, status.ExitStatus(), 1)
		c.heard()
		_, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOHANG, nil)
		require.ErrorIs(t, err, unix.ECHILD, "a process is left")
	})
}
