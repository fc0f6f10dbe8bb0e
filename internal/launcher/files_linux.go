package launcher

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/rawproc"
)

// Files is a process of a container that runs plans about its files: a copy of init,
// as long as it is open. It may hang with a file system, and it ends with everything
// else where the main job does; init goes on. It is for one goroutine.
type Files struct {
	sock  *os.File
	raw   syscall.RawConn
	pidfd int
	next  uint32
	last  uint32 // the answer read last
}

// ErrFilesGone is met where the process has ended before it has answered.
var ErrFilesGone = errors.New("the process for files has ended")

// Files has init make such a process.
func (i *Init) Files(ctx context.Context) (*Files, error) {
	i.mu.Lock()
	over := i.abandoned || isClosed(i.done)
	i.mu.Unlock()
	if over {
		return nil, unix.ESRCH
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	// The other end is read as a blocking one.
	err = unix.SetNonblock(fds[1], false)
	if err == nil {
		err = i.request(ctx, rawproc.Header{Op: rawproc.OpFiles}, nil, fds[1:])
	}
	if err = errors.Join(err, unix.Close(fds[1])); err != nil {
		if errors.Is(err, unix.EPIPE) {
			err = unix.ESRCH
		}
		return nil, errors.Join(err, unix.Close(fds[0]))
	}
	f := &Files{sock: os.NewFile(uintptr(fds[0]), "files"), pidfd: -1}
	if f.raw, err = f.sock.SyscallConn(); err == nil {
		err = f.begun(ctx)
	}
	if err != nil {
		if errors.Is(err, ErrFilesGone) { // with init, or so soon that it may be asked for again
			err = fmt.Errorf("%w: %w", unix.ESRCH, err)
		}
		return nil, errors.Join(err, f.sock.Close())
	}
	return f, nil
}

// begun takes init's word of the process.
func (f *Files) begun(ctx context.Context) error {
	b, fds, _, err := f.receive(ctx, 0)
	if err != nil {
		return err
	}
	var a rawproc.Answer
	if _, err = binary.Decode(b, binary.LittleEndian, &a); err == nil && a.Errno == 0 && a.Op == rawproc.AnsFiles && len(fds) == 1 {
		f.pidfd = fds[0]
		return nil
	}
	for _, fd := range fds {
		_ = unix.Close(fd) // nobody knows what it is for
	}
	switch {
	case err != nil || a.Op != rawproc.AnsFiles:
		return fmt.Errorf("inlay: bug: answer %d of %d bytes to a request for files", a.Op, len(b))
	case a.Errno != 0:
		return fmt.Errorf("clone3: %w", syscall.Errno(a.Errno))
	}
	return unix.EMFILE // it was sent, and there was no room for it here
}

// Close ends the process, as soon as it is done with what it was sent.
func (f *Files) Close() error {
	err := f.sock.Close()
	if f.pidfd >= 0 {
		err = errors.Join(err, unix.Close(f.pidfd))
		f.pidfd = -1
	}
	return err
}

// Kill kills the process and waits until it is gone.
func (f *Files) Kill(ctx context.Context) error {
	if err := unix.PidfdSendSignal(f.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	for {
		_, err := f.Answer(ctx, 0)
		if errors.Is(err, ErrFilesGone) {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// Run sends a plan, encoded, with the descriptors for its registers from 0 on; it does
// not wait. The answers come in the order of the plans, each with n registers from first
// on. chain: it is not begun where the one before has failed.
func (f *Files) Run(ctx context.Context, plan []byte, fds []int, first, n int, chain bool) error {
	f.next++
	h := rawproc.Header{Op: rawproc.OpRun, ID: f.next, Prepare: uint32(first), Parent: uint32(n)}
	if chain {
		h.Flags |= rawproc.FlagChain
	}
	var err error
	if rerr := f.raw.Control(func(fd uintptr) { err = send(ctx, int(fd), h, plan, fds) }); rerr != nil {
		return rerr
	}
	if errors.Is(err, unix.EPIPE) {
		return ErrFilesGone
	}
	return err
}

// Answer reads the answer to the next plan: its registers, those that are descriptors as
// such, which the caller owns then, the others as they are. Of a plan that failed it is
// a *PlanError; one that was not begun is ECANCELED of step 0.
func (f *Files) Answer(ctx context.Context, n int) (regs []int64, err error) {
	b, fds, flags, err := f.receive(ctx, n)
	if err != nil {
		return nil, err
	}
	if regs, err = f.answer(b, flags, fds, n); err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd) // nobody knows what it is for
		}
		return nil, err
	}
	return regs, nil
}

// receive reads one message, with at most n registers or descriptors.
func (f *Files) receive(ctx context.Context, n int) (b []byte, fds []int, flags int, err error) {
	if err := f.sock.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil, 0, err
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = f.sock.SetReadDeadline(time.Unix(1, 0)) // closed meanwhile: then nobody reads
	})
	defer func() {
		if !stop() {
			<-fired
		}
	}()
	buf, oob := make([]byte, rawproc.AnswerSize+8*n), make([]byte, unix.CmsgSpace(4*max(n, 1)))
	var got, rights int
	rerr := f.raw.Read(func(fd uintptr) bool {
		for {
			got, rights, flags, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	switch {
	case errors.Is(rerr, os.ErrDeadlineExceeded):
		return nil, nil, 0, context.Cause(ctx)
	case rerr != nil:
		return nil, nil, 0, rerr
	case errors.Is(err, unix.ECONNRESET) || err == nil && got == 0:
		return nil, nil, 0, ErrFilesGone
	case err != nil:
		return nil, nil, 0, os.NewSyscallError("recvmsg", err)
	}
	fds, err = allRights(oob[:rights])
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd) // nobody knows what it is for
		}
	}
	return buf[:got], fds, flags, err
}

func (f *Files) answer(b []byte, flags int, fds []int, n int) ([]int64, error) {
	var a rawproc.Answer
	if _, err := binary.Decode(b, binary.LittleEndian, &a); err != nil {
		return nil, fmt.Errorf("inlay: bug: an answer of %d bytes", len(b))
	}
	switch f.last++; {
	case a.Op != rawproc.AnsRan || a.ID != f.last:
		return nil, fmt.Errorf("inlay: bug: answer %d to request %d, not to %d", a.Op, a.ID, f.last)
	case a.Errno != 0:
		return nil, &PlanError{int(a.Phase), int(a.Step), syscall.Errno(a.Errno)}
	case len(b) != rawproc.AnswerSize+8*n:
		return nil, fmt.Errorf("inlay: bug: an answer of %d bytes, for %d registers", len(b), n)
	}
	regs := make([]int64, n)
	next := 0
	for i := range regs {
		regs[i] = int64(binary.LittleEndian.Uint64(b[rawproc.AnswerSize+8*i:]))
		if regs[i] < 0 {
			continue
		}
		if next >= len(fds) || flags&unix.MSG_CTRUNC != 0 {
			return nil, unix.EMFILE // it was sent, and there was no room for it here
		}
		regs[i] = int64(fds[next])
		next++
	}
	if next != len(fds) {
		return nil, fmt.Errorf("inlay: bug: %d descriptors, for %d", len(fds), next)
	}
	return regs, nil
}

func allRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, fmt.Errorf("control message: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}
