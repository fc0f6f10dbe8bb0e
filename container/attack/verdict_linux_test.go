package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// onVerdict are attacks on what is said of a job. Each ends in a way of its own,
// and is contained if that is its verdict. Called with "wait" it meets a limit
// instead: then the verdict is another, and its judge has to see that.
var onVerdict = []attack{
	judged("forged-exits", forgeExits, exits(77)),
	judged("orphans-exit", endOrphans, exits(77)),
	judged("many-orphans", fillInit, exits(77)),
	judged("thread-exit", endFirstThread, exits(77)),
	judged("another-program", becomeAnother, exits(77)),
	judged("held-by-tracer", holdBack, exits(77)),
	judged("signal-flood", floodInit, exits(77)),
	judged("code-of-a-kill", func() int { return 128 + 9 }, exits(137)),
	judged("own-kill", func() int { return end(unix.SIGKILL) }, signaled(unix.SIGKILL)),
	judged("own-cpu-signal", func() int { return end(unix.SIGXCPU) }, signaled(unix.SIGXCPU)),
	judged("own-term", func() int { return end(unix.SIGTERM) }, signaled(unix.SIGTERM)),
}

// judged is an attack whose code is what f returns, and whose verdict has to be
// that.
func judged(name string, f func() int, judge func(*container.Result) error) attack {
	return attack{
		name: attackGo(name, func(args []string) (string, error) {
			if len(args) > 0 && args[0] == "wait" {
				for {
					_ = unix.Pause() // a signal of Go's own ends it
				}
			}
			if len(args) > 0 { // a process that the attack started
				code, err := strconv.Atoi(args[1])
				if err != nil {
					return "", err
				}
				os.Exit(helpers[args[0]](code))
			}
			code := f()
			fmt.Println("CONTAINED: ends by itself")
			os.Exit(code)
			return "", nil
		}),
		class: "verdict", proof: opened, open: []container.Option{container.WithTimeLimit(300 * time.Millisecond)}, proofArgs: []string{"wait"}, killed: true, judge: judge,
	}
}

// helpers are what processes that such an attack starts do.
var helpers = map[string]func(int) int{"tracer": trace}

func exits(code int) func(*container.Result) error {
	return func(res *container.Result) error {
		if res.Status != container.Exited || res.ExitCode != code || len(res.Causes) > 0 {
			return fmt.Errorf("exit code %d became: %v", code, res)
		}
		return nil
	}
}

func signaled(sig syscall.Signal) func(*container.Result) error {
	return func(res *container.Result) error {
		if res.Status != container.Signaled || res.Signal != sig || len(res.Causes) > 0 {
			return fmt.Errorf("signal %d of its own became: %v", sig, res)
		}
		return nil
	}
}

// end is the job's end by a signal that it sends itself.
func end(sig syscall.Signal) int {
	signal.Reset()
	// With the kernel's own action: Go has handlers for most.
	act := struct{ handler, flags, restorer, mask uintptr }{}
	if err := errnoOf(unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(ptr(&act)), 0, 8, 0, 0)); err != nil && sig != unix.SIGKILL {
		fmt.Println("rt_sigaction:", err)
		return 98
	}
	if err := unix.Kill(os.Getpid(), sig); err != nil {
		fmt.Println("kill:", err)
		return 98
	}
	for {
		_ = unix.Pause()
	}
}

// forgeExits tells init that this process has exited with 0, as only the kernel
// may, before it has.
func forgeExits() int {
	const cldExited, siQueue = 1, ^uint32(0)
	pid := os.Getpid()
	for range 1000 {
		for _, code := range []uint32{cldExited, siQueue} {
			info := [16]uint64{uint64(unix.SIGCHLD), uint64(code), uint64(pid)} //nolint:gosec // a pid is above zero
			_, _, _ = unix.RawSyscall(unix.SYS_RT_SIGQUEUEINFO, 1, uintptr(unix.SIGCHLD), uintptr(ptr(&info)))
		}
		_ = unix.Kill(1, unix.SIGCHLD) // EPERM, unless it has init's id
	}
	return 77
}

// endOrphans has processes end as init's children with other codes, before, beside
// and after the job.
func endOrphans() int {
	for i := range 10 {
		if err := exec.Command("/bin/sh", "-c", fmt.Sprintf("(exit %d) & (sh -c 'exit %d' &) & (sleep 1000 & kill -9 $!) & exit 0", i, i+100)).Run(); err != nil {
			fmt.Println(err)
			return 98
		}
	}
	return 77
}

// fillInit gives init many children that have ended all at once.
func fillInit() int {
	for range 5 {
		if err := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 100 ]; do exit $i & i=$((i+1)); done").Run(); err != nil {
			fmt.Println(err)
			return 98
		}
	}
	return 77
}

// floodInit sends init all that it might handle.
func floodInit() int {
	for range 20000 {
		_ = unix.Kill(1, unix.SIGCHLD) // EPERM, unless it has init's id
		_ = unix.Tgkill(1, 1, unix.SIGCHLD)
		for _, sig := range []uintptr{uintptr(unix.SIGCHLD), 34, 64} {
			info := [16]uint64{uint64(sig), uint64(^uint32(0))}
			_, _, _ = unix.RawSyscall(unix.SYS_RT_SIGQUEUEINFO, 1, sig, uintptr(ptr(&info)))
		}
	}
	return 77
}

// endFirstThread ends the thread by which a process is known, long before the
// process.
func endFirstThread() int {
	next := make(chan struct{})
	for {
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() != os.Getpid() {
				next <- struct{}{}
				select {}
			}
			go func() {
				for !firstThreadGone() {
				}
				fmt.Println("CONTAINED: ends by itself")
				os.Exit(77)
			}()
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
		}()
		<-next // not that one: another thread may run the next
	}
}

func firstThreadGone() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", os.Getpid()))
	return err == nil && strings.Contains(string(text), ") Z ")
}

// becomeAnother exits as another program.
func becomeAnother() int {
	fmt.Println(unix.Exec("/bin/sh", []string{"sh", "-c", "echo CONTAINED: ends by itself; exit 77"}, os.Environ()))
	return 98
}

// holdBack has a child trace the job, and not wait for it: nobody else is told of
// the job's end while that one lives. The job is a shell by then that has all signals
// blocked, of which each would stop what is traced: Go's runtime may have sent it one
// before it became a shell.
func holdBack() int {
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", "held-by-tracer", "tracer", strconv.Itoa(os.Getpid()))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		f, ok := out.(*os.File)
		if !ok {
			err = errOther
		} else {
			err = unix.Dup3(int(f.Fd()), 9, 0) //nolint:gosec // a descriptor
		}
	}
	if err == nil {
		all := unix.Sigset_t{}
		for i := range all.Val {
			all.Val[i] = ^uint64(0)
		}
		err = unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil)
	}
	if err == nil {
		err = unix.Exec("/bin/sh", []string{"sh", "-c", "read traces <&9; echo CONTAINED: ends by itself; exit 77"}, os.Environ())
	}
	fmt.Println(err)
	return 98
}

// trace waits until the process is a shell, traces it and does no more.
func trace(pid int) int {
	runtime.LockOSThread()
	for {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			return 98
		}
		if string(text) == "sh\n" {
			break
		}
	}
	if err := unix.PtraceSeize(pid); err != nil && !errors.Is(err, unix.EPERM) {
		fmt.Fprintln(os.Stderr, err)
		return 98
	}
	fmt.Println("traces")
	for {
		_ = unix.Pause()
	}
}

const outlivingName = "outliving"

// outliving is no attack of its own: processes in all ways that are known to get
// away from a parent, which wait without end. The test looks for them.
var outliving = attackGoUnlisted(outlivingName, func(args []string) (string, error) {
	if len(args) > 1 { // one of them
		signal.Ignore()
		fmt.Println("up")
		for {
			_ = unix.Pause()
		}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return "", err
	}
	for name, attributes := range map[string]*syscall.SysProcAttr{"child": {}, "session": {Setsid: true}, "group": {Setpgid: true}} {
		cmd := exec.Command("/proc/self/exe", outlivingName, args[0], name)
		cmd.SysProcAttr = attributes
		if err := started(cmd); err != nil {
			return "", err
		}
	}
	for _, line := range []string{
		`"$@" orphan &`, `setsid "$@" orphan of a session &`, `(setsid sh -c '"$@" orphan below all &' sh "$@" &) &`, `trap "" HUP INT TERM; (cd /tmp; "$@" deaf &) &`,
	} {
		if err := started(exec.Command("/bin/sh", "-c", line, "sh", "/proc/self/exe", outlivingName, args[0])); err != nil {
			return "", err
		}
	}
	fmt.Println("all")
	if os.Getenv("STAY") != "" {
		for {
			_ = unix.Pause()
		}
	}
	os.Exit(77)
	return "", nil
})

// started starts one, and waits until it or its orphan is up.
func started(cmd *exec.Cmd) error {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if cmd.Args[1] == "-c" {
		exe, err := os.Readlink("/proc/self/exe") // that of sh is another
		if err != nil {
			return err
		}
		cmd.Args[4] = exe
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = io.ReadFull(out, make([]byte, len("up\n")))
	return err
}

// marked counts the processes of the host that have an argument, by what /proc
// tells everybody.
func marked(t *testing.T, mark string) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	n := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err == nil && bytes.Contains(text, []byte(mark)) { // else it has ended
			n++
		}
	}
	return n
}

// Nothing of a job lives on: after the main job's end, after Close, and after the
// end of Run's context.
func TestNothingOutlives(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	p := attackPrograms(t)
	const all = 7
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			containertest.Require(t, k.needs...)
			w := newWorld(t)
			job := func(opts ...container.JobOption) container.JobOption {
				a := attack{name: outliving, args: []string{"{secret}"}}
				return container.JobOptions(append(opts, a.command(w))...)
			}
			t.Run("exit", func(t *testing.T) {
				res, err := container.Run(t.Context(), append(k.opts, p.shown(), job())...)
				require.NoError(t, err)
				require.NoError(t, exits(77)(res))
				require.Zero(t, marked(t, w.secret))
			})
			t.Run("context", func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				// They are counted while the job's output is read: it has not ended then.
				most := 0
				out := lines(func(l string) {
					if l == "all" {
						most = marked(t, w.secret)
						cancel()
					}
				})
				res, err := container.Run(ctx, append(k.opts, p.shown(), job(), container.WithEnv("STAY=1"), container.WithStdout(out))...)
				require.NoError(t, err)
				require.Equal(t, container.Canceled, res.Status)
				require.Greater(t, most, all)
				require.Zero(t, marked(t, w.secret))
			})
			t.Run("Close", func(t *testing.T) {
				c, err := container.New(append(k.opts, p.shown())...)
				require.NoError(t, err)
				require.NoError(t, c.Start(t.Context()))
				proc, err := c.Exec(t.Context(), job())
				require.NoError(t, err)
				res, err := proc.Wait(t.Context())
				require.NoError(t, err)
				require.NoError(t, exits(77)(res))
				require.GreaterOrEqual(t, marked(t, w.secret), all, "they stay in a container that goes on")
				require.NoError(t, c.Close())
				require.Zero(t, marked(t, w.secret))
			})
		})
	}
}

// lines calls a function for each whole line that is written.
func lines(f func(line string)) io.Writer {
	var left []byte
	return writerFunc(func(b []byte) {
		left = append(left, b...)
		for {
			line, rest, found := bytes.Cut(left, []byte("\n"))
			if !found {
				return
			}
			f(string(line))
			left = rest
		}
	})
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }
