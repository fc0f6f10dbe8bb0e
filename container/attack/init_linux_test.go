package attack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
)

// onInit are attacks on the container's PID 1. That they can succeed is shown on a
// child of the attacker's own.
var onInit = []attack{
	{name: attackGo("init-signals", signalInit), class: "init", args: []string{"1"}, proof: bare, proofArgs: []string{"child"}},
	{name: attackGo("init-files", openInit), class: "init", args: []string{"1"}, proof: bare, proofArgs: []string{"child"}},
	{name: attackGo("init-descriptors", takeDescriptors), class: "init", args: []string{"1"}, proof: bare, proofArgs: []string{"child"}},
	{name: attackGo("init-memory", reachMemory), class: "init", args: []string{"1"}, proof: bare, proofArgs: []string{"child"}},
	{name: attackGo("init-limits", limitInit), class: "init", args: []string{"1"}, proof: bare, proofArgs: []string{"child"}},
	{name: attackGo("control-socket", writeDescriptors), class: "descriptors", proof: opened, opens: withSocket},
}

// target is the process that is attacked: init, or a child that waits.
func target(arg string, attack func(pid int, child bool) (string, error)) (string, error) {
	if arg != "child" {
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return "", err
		}
		return attack(pid, false)
	}
	cmd := exec.Command("/bin/sh", "-c", "echo ready; read nothing")
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		return "", err
	}
	detail, err := attack(cmd.Process.Pid, true)
	_ = in.Close()
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()
	return detail, err
}

// Signals that end or stop. The kernel keeps them from a PID 1 that has no handler,
// also where they may be sent.
func signalInit(args []string) (string, error) {
	return target(args[0], func(pid int, child bool) (string, error) {
		signals := []unix.Signal{unix.SIGSTOP, unix.SIGTSTP, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGSEGV, unix.SIGPWR, unix.SIGSYS, unix.SIGXCPU, 34, 64, unix.SIGKILL}
		return anyOf(signals, func(sig unix.Signal) (string, error) {
			err := unix.Kill(pid, sig)
			for _, other := range []error{unix.Tgkill(pid, pid, sig), byPidfd(pid, func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })} {
				if other == nil {
					err = nil
				}
			}
			if child && err == nil {
				var status unix.WaitStatus
				if _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); err != nil {
					return "", err
				}
				if status.Stopped() || status.Signaled() {
					return "it stopped or ended", nil
				}
			}
			if err != nil {
				return "", err
			}
			if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				return "it has ended", nil
			}
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				return "", err
			}
			state := string(text)[strings.LastIndexByte(string(text), ')')+2:]
			if strings.ContainsRune("TtZX", rune(state[0])) {
				return "its state is " + state[:1], nil
			}
			return "", errors.New("it goes on")
		})
	})
}

func byPidfd(pid int, f func(fd int) error) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer closing(fd)
	return f(fd)
}

// What /proc has of init: its memory, its program, its root, its namespaces.
func openInit(args []string) (string, error) {
	return target(args[0], func(pid int, _ bool) (string, error) {
		dir := fmt.Sprintf("/proc/%d/", pid)
		ways := []way{
			{"memory", func() error { return opens(dir+"mem", unix.O_RDWR) }},
			{"program", func() error { return opens(dir+"exe", unix.O_RDONLY) }},
			{"root", func() error { return opens(dir+"root/usr", unix.O_PATH) }},
			{"folder", func() error { return opens(dir+"cwd/usr", unix.O_PATH) }},
			{"environment", func() error { return opens(dir+"environ", unix.O_RDONLY) }},
			{"mappings", func() error { return opens(dir+"maps", unix.O_RDONLY) }},
			{"score", func() error { return opens(dir+"oom_score_adj", unix.O_WRONLY) }},
			{"thread's memory", func() error { return opens(dir+"task/"+strconv.Itoa(pid)+"/mem", unix.O_RDWR) }},
		}
		for _, n := range []string{"mnt", "net", "pid", "user", "uts", "ipc", "cgroup"} {
			ways = append(ways, way{"namespace " + n, func() error { return opens(dir+"ns/"+n, unix.O_RDONLY) }})
		}
		for fd := range 10 {
			ways = append(ways, way{"descriptor", func() error { return opens(fmt.Sprint(dir, "fd/", fd), unix.O_RDWR) }})
		}
		return anyWay(ways...)
	})
}

func takeDescriptors(args []string) (string, error) {
	return target(args[0], func(pid int, _ bool) (string, error) {
		fds := make([]int, 64)
		for i := range fds {
			fds[i] = i
		}
		return anyOf(fds, func(n int) (string, error) {
			return "taken", byPidfd(pid, func(pidfd int) error {
				fd, err := unix.PidfdGetfd(pidfd, n, 0)
				if err == nil {
					closing(fd)
				}
				return err
			})
		})
	})
}

func reachMemory(args []string) (string, error) {
	runtime.LockOSThread() // who traces is a thread
	var here [1]byte
	return target(args[0], func(pid int, _ bool) (string, error) {
		local := []unix.Iovec{{Base: &here[0], Len: 1}}
		remote := []unix.RemoteIovec{{Base: uintptr(ptr(&here)), Len: 1}}
		return anyWay(
			// EFAULT is an address that it does not have, and leave to read others.
			way{"process_vm_readv", func() error {
				if _, err := unix.ProcessVMReadv(pid, local, remote, 0); !errors.Is(err, unix.EFAULT) {
					return err
				}
				return nil
			}},
			way{"process_vm_writev", func() error {
				if _, err := unix.ProcessVMWritev(pid, local, remote, 0); !errors.Is(err, unix.EFAULT) {
					return err
				}
				return nil
			}},
			way{"seize", func() error { return unix.PtraceSeize(pid) }},
			way{"attach", func() error { return unix.PtraceAttach(pid) }},
		)
	})
}

func limitInit(args []string) (string, error) {
	return target(args[0], func(pid int, _ bool) (string, error) {
		limit := func(resource int) func() error {
			return func() error { return unix.Prlimit(pid, resource, &unix.Rlimit{}, nil) }
		}
		return anyWay(
			way{"processor time", limit(unix.RLIMIT_CPU)},
			way{"open files", limit(unix.RLIMIT_NOFILE)},
			way{"memory", limit(unix.RLIMIT_AS)},
			way{"priority", func() error { return unix.Setpriority(unix.PRIO_PROCESS, pid, 19) }},
			way{"processors", func() error {
				var set unix.CPUSet
				set.Set(0)
				return unix.SchedSetaffinity(pid, &set)
			}},
		)
	})
}

// A message to whoever is at the other end of what the job was given beyond its
// standard three: init's own socket, were it among that.
func writeDescriptors([]string) (string, error) {
	var fds []int
	for fd := 3; fd < 1024; fd++ {
		link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		// Go's own: its poller.
		if err == nil && !strings.HasPrefix(link, "anon_inode:[event") {
			fds = append(fds, fd)
		}
	}
	frame := make([]byte, 64) // as good as any: nobody is to get it
	return anyOf(fds, func(fd int) (string, error) {
		if err := unix.Sendto(fd, frame, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil); err == nil {
			return "sent", nil
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return "", err
		}
		_, err := unix.Write(fd, frame)
		return "written", err
	})
}

// withSocket gives one end of a pair, as init has it.
func withSocket(t *testing.T, _ *world) []container.Option {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var ends []*os.File
	for _, fd := range pair {
		f := os.NewFile(uintptr(fd), "socket") //nolint:gosec // a descriptor
		ends = append(ends, f)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
	}
	return []container.Option{container.WithExtraFiles(ends[0])}
}
