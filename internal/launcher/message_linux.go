package launcher

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/rawproc"
)

// send sends one request: its header, the plans inline or in a sealed memfd,
// and the descriptors, at most 200 to a message. It keeps nothing of plans.
func send(ctx context.Context, sock int, h rawproc.Header, plans []byte, fds []int) error {
	h.Size = uint64(len(plans))
	if len(plans) > rawproc.MaxInline || len(fds) > rawproc.MaxFDs {
		mem, err := sealed(plans)
		if err != nil {
			return err
		}
		defer unix.Close(mem) //nolint:errcheck // a memfd has nothing to flush
		fds = append([]int{mem}, fds...)
		h.Flags |= rawproc.FlagMemfd
		plans = nil
	}
	if len(fds) > rawproc.MaxRequestFDs {
		return fmt.Errorf("%d descriptors in one request, at most %d: %w", len(fds), rawproc.MaxRequestFDs, unix.EMFILE)
	}
	h.FDs = uint32(len(fds))
	first := fds
	if len(first) > rawproc.MaxFDs {
		first = first[:rawproc.MaxFDs]
	}
	if err := sendOne(ctx, sock, encodeHeader(&h), plans, first); err != nil {
		return err
	}
	// Half a request would be read together with the next: no way back from here.
	ctx = context.WithoutCancel(ctx)
	for rest := fds[len(first):]; len(rest) > 0; {
		n := min(len(rest), rawproc.MaxFDs)
		more := rawproc.Header{Op: rawproc.OpMore}
		if err := sendOne(ctx, sock, encodeHeader(&more), nil, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func encodeHeader(h *rawproc.Header) []byte {
	b, err := binary.Append(make([]byte, 0, rawproc.HeaderSize), binary.LittleEndian, h)
	if err != nil {
		panic("inlay: bug: header: " + err.Error()) // a fixed struct always encodes
	}
	return b
}

// sealed returns a memfd with the plans that nobody can change or shrink.
func sealed(plans []byte) (int, error) {
	mem, err := unix.MemfdCreate("inlay-plan", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	for at := 0; at < len(plans); {
		n, err := unix.Pwrite(mem, plans[at:], int64(at))
		if err != nil {
			return -1, errors.Join(fmt.Errorf("memfd of %d bytes: %w", len(plans), err), unix.Close(mem))
		}
		at += n
	}
	if len(plans) == 0 {
		if err := unix.Ftruncate(mem, 4096); err != nil {
			return -1, errors.Join(fmt.Errorf("memfd: %w", err), unix.Close(mem))
		}
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(mem), unix.F_ADD_SEALS, seals); err != nil {
		return -1, errors.Join(fmt.Errorf("memfd seals: %w", err), unix.Close(mem))
	}
	return mem, nil
}

// sendOne is one sendmsg(2). Where the peer does not read, it waits until the
// context ends.
func sendOne(ctx context.Context, sock int, header, plans []byte, fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		_, err := unix.SendmsgBuffers(sock, [][]byte{header, plans}, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED):
			// It ended with something of ours unread, or just as this was sent
			// (unix_dgram_sendmsg): the same to us as an end.
			return fmt.Errorf("sendmsg: %w", unix.EPIPE)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ETOOMANYREFS), errors.Is(err, unix.ENOBUFS):
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			// In slices, so that the context is seen.
			if _, perr := unix.Poll([]unix.PollFd{{Fd: int32(sock), Events: unix.POLLOUT}}, 10); perr != nil && !errors.Is(perr, unix.EINTR) {
				return fmt.Errorf("poll: %w", perr)
			}
			if errors.Is(err, unix.ETOOMANYREFS) {
				runtime.Gosched() // others' descriptors are in flight: they must be taken first
			}
		default:
			return fmt.Errorf("sendmsg of %d bytes, %d descriptors: %w", len(header)+len(plans), len(fds), err)
		}
	}
}

// receive takes one answer. fd is -1 where none came, and with every error; errEnd
// is the end.
func receive(sock int) (a rawproc.Answer, fd int, err error) {
	var buf [rawproc.AnswerSize]byte
	var oob [64]byte
	for {
		n, oobn, flags, _, err := unix.Recvmsg(sock, buf[:], oob[:], unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNRESET):
			// ECONNRESET comes once, before what the peer had sent, when it ended with
			// something of ours unread.
			continue
		case errors.Is(err, unix.EAGAIN):
			return a, -1, errNothing
		case err != nil:
			return a, -1, errEnd
		}
		fd = -1
		pid := uint32(0)
		if oobn > 0 {
			if fd, pid, err = control(oob[:oobn]); err != nil {
				return a, -1, err
			}
		}
		switch {
		case n == 0:
			err = errEnd
		case n != rawproc.AnswerSize || flags&unix.MSG_TRUNC != 0:
			err = fmt.Errorf("inlay: bug: an answer of %d bytes", n)
		default:
			_, err = binary.Decode(buf[:], binary.LittleEndian, &a)
		}
		if err != nil {
			if fd >= 0 {
				_ = unix.Close(fd) // nobody knows what it is for
			}
			return a, -1, err
		}
		a.HostPID = pid
		return a, fd, nil
	}
}

var (
	errNothing = errors.New("nothing to read")
	errEnd     = errors.New("end of connection")
)

// control reads what came beside an answer: at most one descriptor, and the process
// that it is about, in this program's PID namespace.
func control(oob []byte) (fd int, pid uint32, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, 0, fmt.Errorf("control message: %w", err)
	}
	fd = -1
	for i := range msgs {
		if c, err := unix.ParseUnixCredentials(&msgs[i]); err == nil {
			pid = uint32(max(c.Pid, 0))
			continue
		}
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, f := range fds {
			if fd >= 0 {
				_ = unix.Close(f) // one is all that is ever sent
				continue
			}
			fd = f
		}
	}
	return fd, pid, nil
}

// socketpair is the connection to an init. What it sends says who sent it, or, of a
// job's start, which process that is.
func socketpair() (host, peer int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return -1, -1, errors.Join(os.NewSyscallError("setsockopt", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return fds[0], fds[1], nil
}
