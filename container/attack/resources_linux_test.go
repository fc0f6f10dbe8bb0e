package attack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// onResources take more than SECURITY.md says that a job without options may have.
// Each stops a little above that, and gives back what it took.
var onResources = []attack{
	{name: attackGo("fork-bomb", forkBomb), class: "pids", args: []string{"1024"}, proof: bare},
	{name: attackGo("fill-tmp", fillBytes), class: "sizes", args: []string{"/tmp", strconv.Itoa(rootfs.DefaultTmpfsSize)}, proof: opened, open: larger("/tmp")},
	{name: attackGo("fill-shm", fillBytes), class: "sizes", args: []string{"/dev/shm", strconv.Itoa(64 << 20)}, proof: opened, open: larger("/dev/shm")},
	{name: attackGo("fill-run", fillBytes), class: "sizes", args: []string{"/run", strconv.Itoa(16 << 20)}, proof: opened, open: larger("/run/more"), proofArgs: []string{"/run/more", strconv.Itoa(16 << 20)}},
	{name: attackGo("fill-inodes", fillInodes), class: "sizes", args: []string{"/dev/shm", "16384"}, proof: opened, open: larger("/dev/shm")},
	{name: attackGo("fill-inodes-run", fillInodes), class: "sizes", args: []string{"/run", "8192"}, proof: opened, open: larger("/run/more"), proofArgs: []string{"/run/more", "8192"}},
	{name: attackGo("huge-file", hugeFile), class: "rlimits", args: []string{strconv.Itoa(64 << 30)}, proof: bare},
	{name: attackGo("open-files", openFiles), class: "rlimits", args: []string{"65536"}, proof: opened, proofArgs: []string{"2000"}},
	{name: attackGo("message-queues", fillQueues), class: "rlimits", args: []string{"819200"}, proof: opened, proofArgs: []string{"100000"}},
	{name: attackGo("pending-signals", pendSignals), class: "rlimits", args: []string{"4096"}, proof: opened, proofArgs: []string{"2000"}},
	{name: attackGo("locked-memory", lockMemory), class: "rlimits", args: []string{strconv.Itoa(8 << 20)}, proof: opened, proofArgs: []string{strconv.Itoa(4 << 20)}},
	{name: attackGo("raise-limits", raiseLimits), class: "rlimits", proof: bareVM},
	{name: attackGo("raise-priority", raisePriority), class: "rlimits", proof: bareRoot},
	{name: attackGo("core-dump", dumpCore), class: "core handler", proof: opened, open: []container.Option{container.WithRlimit("core", security.Infinity, security.Infinity)}},
}

// larger has room for what is too much by default.
func larger(dir string) []container.Option {
	return []container.Option{container.WithMounts(rootfs.Tmpfs(dir, rootfs.Size(300<<20), rootfs.Inodes(100_000)))}
}

// more makes things until it has more than the limit, the kernel refuses, or what
// it made is undone.
func more(args []string, make func(i int) error) (string, error) {
	limit, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return "", err
	}
	for i := range limit + 1 {
		if err := make(i); err != nil {
			return "", fmt.Errorf("after %d: %w", i, err)
		}
	}
	return fmt.Sprintf("more than %d", limit), nil
}

// forkBomb counts the children of a shell, less itself and that. They end with
// this program, whose end of their pipe is the only one.
func forkBomb(args []string) (string, error) {
	limit, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt $1 ]; do (exec <&3 >/dev/null 2>&1; read x) & i=$((i+1)); echo $i; done", "sh", strconv.Itoa(limit+1))
	cmd.ExtraFiles = []*os.File{r}
	out, errRun := cmd.Output() // a shell that cannot fork ends
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		return "", err
	}
	for err == nil || errors.Is(err, unix.EINTR) {
		_, err = unix.Wait4(-1, nil, 0, nil)
	}
	if !errors.Is(err, unix.ECHILD) {
		return "", err
	}
	made := strings.Fields(string(out))
	if len(made) == 0 {
		return "", fmt.Errorf("no child: %w", errRun)
	}
	if len(made) <= limit {
		return "", fmt.Errorf("after %d: %w", len(made), errRun)
	}
	return fmt.Sprintf("%d children", len(made)), nil
}

// fillBytes takes them all at once, since fallocate(2) gives all or nothing.
func fillBytes(args []string) (string, error) {
	limit, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(args[0], "attack")
	if err != nil {
		return "", err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, limit+4096) //nolint:gosec // a descriptor
	return "more than " + args[1] + " bytes", errors.Join(err, f.Close(), os.Remove(f.Name()))
}

func fillInodes(args []string) (string, error) {
	dir, err := os.MkdirTemp(args[0], "attack")
	if err != nil {
		return "", err
	}
	detail, err := more(args, func(i int) error {
		fd, err := unix.Open(filepath.Join(dir, strconv.Itoa(i)), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		if err == nil {
			closing(fd)
		}
		return err
	})
	return detail, errors.Join(err, os.RemoveAll(dir))
}

// hugeFile is one of holes, which no file system's size keeps small.
func hugeFile(args []string) (string, error) {
	signal.Ignore(unix.SIGXFSZ)
	size, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp("", "attack")
	if err != nil {
		return "", err
	}
	return "a larger file", errors.Join(f.Truncate(size+1), f.Close(), os.Remove(f.Name()))
}

func openFiles(args []string) (string, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return "", err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return "", err
	}
	var made []int
	detail, err := more(args, func(int) error {
		fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			made = append(made, fd)
		}
		return err
	})
	for _, fd := range made {
		closing(fd)
	}
	return detail, err
}

// fillQueues makes queues of the greatest size that may be made, and counts
// their messages' bytes.
func fillQueues(args []string) (string, error) {
	limit, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	const messages, size = 10, 8192
	var made []string
	detail, err := more([]string{strconv.Itoa(limit / (messages * size))}, func(i int) error {
		name, err := unix.BytePtrFromString(fmt.Sprintf("attack-%d-%d", os.Getpid(), i))
		if err != nil {
			return err
		}
		attr := struct {
			flags, maxmsg, msgsize, curmsgs int64
			_                               [4]int64
		}{maxmsg: messages, msgsize: size}
		fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(ptr(name)), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600, uintptr(ptr(&attr)), 0, 0)
		if errno != 0 {
			return errno
		}
		closing(int(fd))
		made = append(made, unix.BytePtrToString(name))
		return nil
	})
	for _, m := range made {
		name, e := unix.BytePtrFromString(m)
		err = errors.Join(err, e, errnoOf(unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(ptr(name)), 0, 0)))
	}
	return detail, err
}

// pendSignals queues signals that nobody takes.
func pendSignals(args []string) (string, error) {
	runtime.LockOSThread()
	const sig = 40
	var set unix.Sigset_t
	set.Val[0] = 1 << (sig - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		return "", err
	}
	tid := unix.Gettid()
	return more(args, func(int) error {
		info := [16]uint64{sig, uint64(^uint32(0))} // SI_QUEUE
		return errnoOf(unix.RawSyscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(os.Getpid()), uintptr(tid), sig, uintptr(ptr(&info)), 0, 0))
	})
}

func lockMemory(args []string) (string, error) {
	size, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	mem, err := unix.Mmap(-1, 0, size+4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return "", err
	}
	return "locked more", errors.Join(unix.Mlock(mem), unix.Munmap(mem))
}

// raiseLimits asks for more than the hard limit.
func raiseLimits([]string) (string, error) {
	resources := map[string]int{
		"core": unix.RLIMIT_CORE, "files": unix.RLIMIT_NOFILE, "processes": unix.RLIMIT_NPROC, "file size": unix.RLIMIT_FSIZE, "locked": unix.RLIMIT_MEMLOCK,
		"queues": unix.RLIMIT_MSGQUEUE, "signals": unix.RLIMIT_SIGPENDING, "nice": unix.RLIMIT_NICE, "real time": unix.RLIMIT_RTPRIO,
	}
	return anyOf(sortedKeys(resources), func(name string) (string, error) {
		var limit unix.Rlimit
		if err := unix.Getrlimit(resources[name], &limit); err != nil {
			return "", err
		}
		if limit.Max == unix.RLIM_INFINITY {
			return "", errors.New("there is none")
		}
		limit.Max++
		return "raised", unix.Setrlimit(resources[name], &limit)
	})
}

func raisePriority([]string) (string, error) {
	runtime.LockOSThread()
	schedule := func(policy uintptr) func() error {
		return func() error {
			priority := int32(1)
			return errnoOf(unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, policy, uintptr(ptr(&priority))))
		}
	}
	const whoProcess, realTime = 1, 1 << 13
	return anyWay(
		way{"nice", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -1) }},
		way{"first in, first out", schedule(1)},
		way{"round robin", schedule(2)},
		way{"disk", func() error { return errnoOf(unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, realTime)) }},
		way{"group of the session", func() error { return os.WriteFile("/proc/self/autogroup", []byte("-5"), 0) }},
		way{"score", func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-1"), 0) }},
	)
}

// dumpCore crashes a child that allows itself a dump.
func dumpCore([]string) (string, error) {
	return inTemp(func(dir string) (string, error) {
		cmd := exec.Command("/bin/sh", "-c", "ulimit -c unlimited 2>/dev/null || ulimit -c $(ulimit -H -c); kill -SEGV $$")
		cmd.Dir = dir
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return "", fmt.Errorf("it did not crash: %w", err)
		}
		status, ok := exit.Sys().(syscall.WaitStatus)
		if !ok || !status.Signaled() {
			return "", fmt.Errorf("it did not crash: %w", err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			return fmt.Sprint(entries), err
		}
		if !status.CoreDump() {
			return "", errors.New("no dump")
		}
		return "handled", nil
	})
}
