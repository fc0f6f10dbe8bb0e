package launcher

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// poller calls a function whenever a descriptor can be read. One goroutine does
// it for the whole program; it waits in the Go runtime's own poller, which
// watches the epoll descriptor, so no thread is blocked.
type poller struct {
	mu    sync.Mutex
	ep    int
	file  *os.File
	calls map[int32]func()
	done  chan struct{}
}

func newPoller() (*poller, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(ep, true); err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(ep))
	}
	p := &poller{ep: ep, file: os.NewFile(uintptr(ep), "epoll"), calls: map[int32]func(){}, done: make(chan struct{})}
	go p.run()
	return p, nil
}

func (p *poller) run() {
	defer close(p.done)
	raw, err := p.file.SyscallConn()
	if err != nil {
		return // closed before it began
	}
	events := make([]unix.EpollEvent, 64)
	// Read returns when the file is closed.
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n == 0 {
				return false
			}
			for _, e := range events[:n] {
				p.mu.Lock()
				call := p.calls[e.Fd]
				p.mu.Unlock()
				if call != nil {
					call()
				}
			}
		}
	})
}

// add watches fd; call runs on the poller's goroutine and must not block.
func (p *poller) add(fd int, call func()) error {
	if p == nil {
		return os.ErrClosed
	}
	p.mu.Lock()
	p.calls[int32(fd)] = call
	p.mu.Unlock()
	if err := unix.EpollCtl(p.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		p.mu.Lock()
		delete(p.calls, int32(fd))
		p.mu.Unlock()
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// remove ends the watch; it must come before the descriptor's close.
func (p *poller) remove(fd int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	_, there := p.calls[int32(fd)]
	delete(p.calls, int32(fd))
	p.mu.Unlock()
	if there {
		// Nothing to do about a failure: the descriptor is closed next.
		_ = unix.EpollCtl(p.ep, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

func (p *poller) close() {
	_ = p.file.Close() // wakes run, which only reads
}
