package container_test

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/security"
)

// attack is one thing that a hostile job tries against init.
type attack struct {
	name string
	try  func() error
}

const namespaceFiles = "cgroup ipc mnt net pid pid_for_children user uts"

// attacks are what may be tried against a process, here PID 1.
func attacks(pid int) []attack {
	dir := fmt.Sprintf("/proc/%d/", pid)
	open := func(name string, flags int) attack {
		return attack{"open " + name, func() error {
			fd, err := unix.Open(dir+name, flags|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		}}
	}
	link := func(name string) attack {
		return attack{"readlink " + name, func() error {
			_, err := unix.Readlink(dir+name, make([]byte, 4096))
			return err
		}}
	}
	list := []attack{
		open("mem", unix.O_RDWR), open("environ", unix.O_RDONLY), open("maps", unix.O_RDONLY), open("auxv", unix.O_RDONLY),
		open("pagemap", unix.O_RDONLY), open("exe", unix.O_RDONLY), link("exe"), link("root"), link("cwd"), open("root/etc", unix.O_PATH),
		open("cwd/etc", unix.O_PATH), open("map_files", unix.O_RDONLY), open("fd", unix.O_RDONLY), open("fdinfo", unix.O_RDONLY),
		link("fd/0"), link("fd/3"), open("fd/3", unix.O_RDWR), link("fd/4"), open("fdinfo/3", unix.O_RDONLY),
		open("task/"+strconv.Itoa(pid)+"/mem", unix.O_RDWR), link("task/" + strconv.Itoa(pid) + "/exe"), link("task/" + strconv.Itoa(pid) + "/fd/3"),
	}
	for _, n := range strings.Fields(namespaceFiles) {
		list = append(list, link("ns/"+n), open("ns/"+n, unix.O_RDONLY))
	}
	pidfd := func(f func(fd int) error) func() error {
		return func() error {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return err
			}
			return errors.Join(f(fd), unix.Close(fd))
		}
	}
	kill := func(sig syscall.Signal) attack {
		return attack{"kill " + strconv.Itoa(int(sig)), func() error { return unix.Kill(pid, sig) }}
	}
	local := make([]byte, 8)
	iov := func() ([]unix.Iovec, []unix.RemoteIovec) {
		return []unix.Iovec{{Base: &local[0], Len: 8}}, []unix.RemoteIovec{{Base: textAddress(), Len: 8}}
	}
	limit := func(name string, resource int, value uint64) attack {
		return attack{"prlimit64 " + name, func() error {
			return unix.Prlimit(pid, resource, &unix.Rlimit{Cur: value, Max: value}, nil)
		}}
	}
	return append(list,
		attack{"ptrace ATTACH", func() error { return unix.PtraceAttach(pid) }},
		attack{"ptrace SEIZE", func() error { return unix.PtraceSeize(pid) }},
		attack{"process_vm_readv", func() error {
			l, r := iov()
			_, err := unix.ProcessVMReadv(pid, l, r, 0)
			return err
		}},
		attack{"process_vm_writev", func() error {
			l, r := iov()
			_, err := unix.ProcessVMWritev(pid, l, r, 0)
			return err
		}},
		attack{"pidfd_getfd 3", pidfd(func(fd int) error {
			_, err := unix.PidfdGetfd(fd, 3, 0)
			return err
		})},
		attack{"setns of pidfd", pidfd(func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWUTS) })},
		kill(unix.SIGKILL), kill(unix.SIGSTOP), kill(unix.SIGTERM), kill(unix.SIGHUP), kill(34), kill(64),
		attack{"pidfd_send_signal", pidfd(func(fd int) error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })},
		attack{"tgkill", func() error { return unix.Tgkill(pid, pid, unix.SIGKILL) }},
		attack{"rt_sigqueueinfo", func() error { return queue(pid, unix.SIGCHLD, siQueue) }},
		// Only the kernel may say CLD_EXITED.
		attack{"rt_sigqueueinfo as the kernel", func() error { return queue(pid, unix.SIGCHLD, cldExited) }},
		attack{"setpriority", func() error { return unix.Setpriority(unix.PRIO_PROCESS, pid, 19) }},
		limit("RLIMIT_CPU", unix.RLIMIT_CPU, 0), limit("RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 0),
		attack{"prlimit64 read", func() error { return unix.Prlimit(pid, unix.RLIMIT_CPU, nil, &unix.Rlimit{}) }},
		attack{"sched_setaffinity", func() error {
			var set unix.CPUSet
			set.Set(0)
			return unix.SchedSetaffinity(pid, &set)
		}},
		attack{"sched_setscheduler", func() error {
			const batch = 3
			var param int32
			return errnoOf(unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(pid), batch, uintptr(ptr(&param))))
		}},
		attack{"ioprio_set", func() error {
			const whoProcess, bestEffort7 = 1, 2<<13 | 7
			return errnoOf(unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), bestEffort7))
		}},
		attack{"oom_score_adj", func() error {
			fd, err := unix.Open(dir+"oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			_, err = unix.Write(fd, []byte("1000"))
			return errors.Join(err, unix.Close(fd))
		}},
	)
}

// textAddress is where this program, and so the launcher's, has read-only data
// if it was linked to a fixed address.
func textAddress() uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(marker))) }

var marker = "this text is at the same address in init"

// fixedAddress tells that this program is linked to one, so that textAddress
// holds for the launcher too.
func fixedAddress(t *testing.T) bool {
	t.Helper()
	f, err := elf.Open("/proc/self/exe")
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // only read
	return f.Type == elf.ET_EXEC
}

const (
	siQueue   = -1
	cldExited = 1
)

// queue sends a signal with a siginfo of the sender's making.
func queue(pid int, sig syscall.Signal, code int32) error {
	info := [16]uint64{uint64(sig), uint64(uint32(code)), uint64(uint32(pid))}
	return errnoOf(unix.RawSyscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(sig), uintptr(ptr(&info))))
}

func errnoOf(_, _ uintptr, errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

const attackName = "attack init"

// attackInit tries them all and prints what each met.
var attackInit = register(attackName, func(args []string) int {
	runtime.LockOSThread()
	if args[0] == "nested" {
		// In a user namespace of the job's own it has all capabilities; ambient, they
		// outlive the execve of a user that is not mapped.
		cmd := exec.Command("/proc/self/exe", attackName, "capable", args[1])
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, AmbientCaps: everyCapability()}
		if err := cmd.Run(); cmd.ProcessState == nil {
			fmt.Println("nested:", err)
			return 97
		}
		return cmd.ProcessState.ExitCode()
	}
	if args[0] == "capable" {
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&hdr, &data[0]); err != nil || data[0].Effective&(1<<unix.CAP_SYS_PTRACE) == 0 {
			fmt.Println("without CAP_SYS_PTRACE", err)
			return 98
		}
	}
	for _, a := range attacks(1) {
		fmt.Printf("%s: %s\n", a.name, answer(a.try()))
	}
	code, err := strconv.Atoi(args[1])
	if err != nil {
		return 99
	}
	return code
})

// answer is how a test names what an attack met.
func answer(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func everyCapability() []uintptr {
	var out []uintptr
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if r, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil && r >= 0 {
			out = append(out, c) // a capability that this kernel has
		}
	}
	return out
}

// row is one kind of job, and what it has in common with init.
type row struct {
	name  string
	needs []containertest.Feature
	opts  []container.Option
	job   []container.JobOption
	how   string // "capable": the job has CAP_SYS_PTRACE; "nested": in a user namespace of its own
	// rights are capabilities over init: it may be signalled and slowed down.
	rights bool
	// global capabilities are those of no user namespace.
	global bool
	// uid is the job's.
	uid int
	// initID is init's id as the job sees it.
	initID int
	// procOwner is who owns init's folder in /proc, as the job sees it: what is not
	// dumpable belongs to the host's root.
	procOwner int
}

const nobody = -1

// rows are the kinds of jobs that this host can have.
func rows(t *testing.T) []row {
	t.Helper()
	users, root := []containertest.Feature{containertest.Users}, []containertest.Feature{containertest.Root}
	const own = 65535 // what init has for itself
	initID, oneInit, oneOwner := own, own, 0
	if os.Geteuid() != 0 {
		oneInit, oneOwner = 0, nobody
	}
	if singleID(t) {
		initID = 0
	}
	one := []namespace.IDMap{{ContainerID: 0, HostID: 0, Size: 1}} // to root of the launcher's namespace
	user := []container.JobOption{container.WithUser(1000, 1000)}
	all := []container.JobOption{container.WithCapabilities(security.AllCapabilities()...)}
	hosts := []container.Option{container.WithHostNamespace(namespace.User)}
	single := []container.Option{container.WithIDMaps(one, one)}
	return []row{
		{name: "default", initID: initID, procOwner: nobody},
		{name: "another user", needs: users, job: user, uid: 1000, initID: initID, procOwner: nobody},
		{name: "all capabilities", job: all, how: "capable", rights: true, initID: initID, procOwner: nobody},
		{name: "another user, all capabilities", needs: users, job: slices.Concat(user, all), how: "capable", rights: true, uid: 1000, initID: initID, procOwner: nobody},
		{name: "nested user namespace", how: "nested", initID: initID, procOwner: nobody},
		{name: "nested, another user", needs: users, job: user, how: "nested", uid: 1000, initID: initID, procOwner: nobody},
		{name: "nested below all capabilities", job: all, how: "nested", initID: initID, procOwner: nobody},
		{name: "single id", opts: single, initID: oneInit, procOwner: oneOwner},
		{name: "single id, all capabilities", opts: single, job: all, how: "capable", rights: true, initID: oneInit, procOwner: oneOwner},
		{name: "host's users", needs: root, opts: hosts},
		{name: "host's users, another user", needs: root, opts: hosts, job: user, uid: 1000},
		{name: "host's users, all capabilities but ptrace", needs: root, opts: hosts, job: []container.JobOption{withoutPtrace()}, rights: true, global: true},
		{name: "host's users, another user, all capabilities but ptrace", needs: root, opts: hosts, job: append(user, withoutPtrace()), rights: true, global: true, uid: 1000},
		{name: "host's users, nested user namespace", needs: root, opts: hosts, how: "nested"},
	}
}

// singleID tells that this host's containers have one id, init's and the job's:
// an unprivileged user without a range in /etc/subuid.
func singleID(t *testing.T) bool {
	t.Helper()
	maps := lines(output(t, container.WithCommand("cat", "/proc/self/uid_map")))
	return len(maps) == 1 && strings.Fields(maps[0])[2] == "1"
}

// withoutPtrace are all capabilities that this host's root has, but the one that
// opens init where there is no user namespace between.
func withoutPtrace() container.JobOption {
	own := statusField("/proc/self/status", "CapPrm")
	mask, err := strconv.ParseUint(own, 16, 64)
	return container.WithCapabilities(slices.DeleteFunc(security.AllCapabilities(), func(c string) bool {
		bit, e := security.CapabilityBits([]string{c})
		return err != nil || e != nil || mask&bit == 0 || c == "CAP_SYS_PTRACE"
	})...)
}

// statusField reads one line of a file like /proc/PID/status.
func statusField(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return field(string(text), name)
}

func field(text, name string) string {
	for _, l := range strings.Split(text, "\n") {
		if v, ok := strings.CutPrefix(l, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "no " + name
}

// hidden tells that the job does not see init in /proc: it is not in group 0.
func (r row) hidden() bool { return r.uid != 0 }

// expected is what the attacks of a row meet.
func (r row) expected() map[string]string {
	want := map[string]string{}
	for _, a := range attacks(1) {
		want[a.name] = "EPERM"
		if strings.HasPrefix(a.name, "open ") || strings.HasPrefix(a.name, "readlink ") || a.name == "oom_score_adj" {
			want[a.name] = "EACCES"
			if r.hidden() {
				want[a.name] = "ENOENT"
			}
		}
	}
	pass := func(names ...string) {
		for _, n := range names {
			want[n] = "done"
		}
	}
	if r.uid == r.initID || r.rights {
		// The kernel keeps signals from a PID 1 that has no handler for them, even
		// SIGKILL and SIGSTOP.
		pass("kill 1", "kill 9", "kill 15", "kill 19", "kill 34", "kill 64", "pidfd_send_signal", "tgkill", "rt_sigqueueinfo")
	}
	// Who has fewer capabilities than init may not slow it, its own id or not; the
	// kernel counts those of a nested user namespace as well.
	if r.rights || r.how == "nested" && r.uid == r.initID {
		pass("setpriority", "sched_setaffinity")
		if r.global || r.uid == r.initID {
			pass("sched_setscheduler", "ioprio_set")
		}
	}
	if !r.hidden() && (r.uid == r.procOwner || r.global) {
		pass("open fd", "open map_files", "oom_score_adj") // their names, not what they lead to
		if fdinfoByMode() {
			pass("open fdinfo", "open fdinfo/3")
		}
	}
	maps.DeleteFunc(want, func(name, _ string) bool { return r.global && slices.Contains(statistics, name) })
	return want
}

// fdinfoByMode tells that /proc/PID/fdinfo, positions and flags of open files, is shown to
// the process's user: since Linux 5.14 it asks as ptrace(2) does.
var fdinfoByMode = sync.OnceValue(func() bool {
	info, err := os.Stat("/proc/self/fdinfo")
	return err == nil && info.Mode().Perm() == 0o500
})

// statistics can be read with CAP_SYS_ADMIN or CAP_PERFMON of the host's own user
// namespace, on newer kernels: addresses, and an environment that is the
// library's own.
var statistics = []string{"open auxv", "open environ", "open maps", "open pagemap"}

// No job reaches init, whatever it is allowed: each attack meets its errno, the
// job's verdict is its own, and the container goes on.
func TestEscapeToInit(t *testing.T) {
	containertest.Census(t)
	for i, r := range rows(t) {
		t.Run(r.name, func(t *testing.T) {
			containertest.Require(t, r.needs...)
			c := start(t, append(r.opts, selfMount(t), container.WithUserNamespaceCreation(r.how == "nested"))...)
			code := 10 + i
			got, res := assault(t, c, r, code)
			require.Empty(t, differences(r.expected(), got))
			require.Equal(t, container.Exited, res.Status, "%v", res)
			require.Equal(t, code, res.ExitCode)
			require.Equal(t, container.StateRunning, c.State())
			for range 3 {
				require.Equal(t, 3, execCode(t, c, sh("exit 3")))
			}
			// As the main job.
			res, err := container.Run(timeout(t), container.Options(r.opts...), container.Options(asOptions(r.job)...), container.WithUserNamespaceCreation(r.how == "nested"), hostileSelf(t, attackInit, r.kind(), strconv.Itoa(code)))
			require.NoError(t, err)
			require.Equal(t, container.Exited, res.Status, "%v", res)
			require.Equal(t, code, res.ExitCode)
		})
	}
}

func asOptions(jobs []container.JobOption) (out []container.Option) {
	for _, j := range jobs {
		out = append(out, j)
	}
	return out
}

// differences lists where two maps differ.
func differences(want, got map[string]string) (out []string) {
	both := maps.Clone(want)
	maps.Copy(both, got)
	for _, k := range slices.Sorted(maps.Keys(both)) {
		if want[k] != got[k] {
			out = append(out, fmt.Sprintf("%s: %q, want %q", k, got[k], want[k]))
		}
	}
	return out
}

func (r row) kind() string {
	if r.how == "" {
		return "plain"
	}
	return r.how
}

// assault has a job of the row try all attacks.
func assault(t *testing.T, c *container.Container, r row, code int) (map[string]string, *container.Result) {
	t.Helper()
	var out bytes.Buffer
	p, err := c.Exec(timeout(t), append(slices.Clone(r.job), hostileJob(t, attackInit, r.kind(), strconv.Itoa(code)), container.WithStdout(&out), container.WithStderr(&out))...)
	require.NoError(t, err)
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	got := map[string]string{}
	for _, l := range lines(out.String()) {
		name, what, ok := strings.Cut(l, ": ")
		require.True(t, ok, "%q", out.String())
		got[name] = what
	}
	maps.DeleteFunc(got, func(name, _ string) bool { return r.global && slices.Contains(statistics, name) })
	return got, res
}

// execCode runs a job to its end and returns its exit code.
func execCode(t *testing.T, c *container.Container, opts ...container.JobOption) int {
	t.Helper()
	p, err := c.Exec(timeout(t), opts...)
	require.NoError(t, err)
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.Equal(t, container.Exited, res.Status, "%v", res)
	return res.ExitCode
}

// prctlDumpable is a step that sets PR_SET_DUMPABLE.
func prctlDumpable(value uint64) plan.Step {
	b := plan.NewBuilder(plan.Exec, launcher.Arch, &plan.Registers{})
	b.Prctl(unix.PR_SET_DUMPABLE, "simulated", value)
	return b.Plan().Steps[0]
}

// afterIDs puts a step behind each one of a job's plan that changes its ids. Until
// its execve the job has init's memory, and what the kernel notes there is init's.
func afterIDs(p *plan.Plan, extra plan.Step) {
	for i := len(p.Steps) - 1; i >= 0 && p.Phase == plan.Exec; i-- {
		if op := p.Steps[i].Op; op == "setresuid" || op == "setresgid" {
			p.Steps = slices.Insert(p.Steps, i+1, extra)
		}
	}
}

// On a host with fs.suid_dumpable = 1 a change of ids makes the process dumpable:
// that of a job on its way to execve must not open init.
func TestEscapeWithSuidDumpable(t *testing.T) {
	containertest.Census(t)
	defer container.Sabotage(nil)
	for _, r := range rows(t) {
		if r.uid == r.initID {
			continue // its ids do not change
		}
		t.Run(r.name, func(t *testing.T) {
			containertest.Require(t, r.needs...)
			c := start(t, append(r.opts, selfMount(t), container.WithUserNamespaceCreation(r.how == "nested"))...)
			container.Sabotage(func(p *plan.Plan) { afterIDs(p, prctlDumpable(1)) })
			defer container.Sabotage(nil)
			got, _ := assault(t, c, r, 5)
			maps.DeleteFunc(got, func(_, met string) bool { return met == "EACCES" || met == "EPERM" || r.hidden() && met == "ENOENT" })
			var passed []string
			for n := range got {
				if r.expected()[n] != "done" {
					passed = append(passed, n)
				}
			}
			require.Empty(t, passed)
		})
	}
}

// The attacks are real: on an init that is dumpable they succeed.
func TestEscapeAttacksWork(t *testing.T) {
	containertest.Census(t)
	defer container.Sabotage(nil)
	container.Sabotage(func(p *plan.Plan) {
		p.Steps = slices.DeleteFunc(p.Steps, func(s plan.Step) bool { return s.Op == "prctl" && s.Path == "PR_SET_DUMPABLE" })
		afterIDs(p, prctlDumpable(1))
	})
	all := container.WithCapabilities(security.AllCapabilities()...)
	got, _ := assault(t, start(t, selfMount(t)), row{how: "capable", job: []container.JobOption{all}}, 5)
	for _, n := range []string{"open mem", "readlink exe", "open exe", "readlink fd/3", "readlink ns/mnt", "pidfd_getfd 3", "setns of pidfd", "ptrace ATTACH", "open environ"} {
		require.Equal(t, "done", got[n], n)
	}
	if fixedAddress(t) {
		require.Equal(t, "done", got["process_vm_readv"])
	}
}

// Without a user namespace between, CAP_SYS_PTRACE would open init.
func TestEscapeByPtraceIsRefused(t *testing.T) {
	hosts, ptrace := container.WithHostNamespace(namespace.User), container.WithCapabilities("CAP_SYS_PTRACE")
	_, err := container.New(hosts, ptrace, container.WithCommand("true"))
	var fault *container.OptionError
	require.ErrorAs(t, err, &fault)
	require.Equal(t, "WithCapabilities", fault.Option)
	t.Run("Exec", func(t *testing.T) {
		containertest.Require(t, containertest.Root)
		containertest.Census(t)
		_, err := start(t, hosts).Exec(timeout(t), ptrace, container.WithCommand("true"))
		require.ErrorAs(t, err, &fault)
		require.Equal(t, "WithCapabilities", fault.Option)
	})
}

var watchJobs = register("watch jobs", func([]string) int {
	// Tries to get hold of every process that appears: of jobs on their way to
	// execve, which have init's memory and the job's own id.
	runtime.LockOSThread()
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	fmt.Println("up")
	self, seen := os.Getpid(), map[string]bool{}
	note := func(s string) {
		if !seen[s] {
			seen[s] = true
			fmt.Println(s)
		}
	}
	text := []byte(marker)
	for !stop.Load() {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return 98
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == 1 || pid == self {
				continue
			}
			buf := make([]byte, len(text))
			l, r := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}, []unix.RemoteIovec{{Base: textAddress(), Len: len(buf)}}
			if _, err := unix.ProcessVMReadv(pid, l, r, 0); err == nil && bytes.Equal(buf, text) {
				note("read init's memory")
			}
			exe, err := os.Readlink("/proc/" + e.Name() + "/exe")
			if err == nil {
				note("exe " + exe)
			} else if errors.Is(err, unix.EACCES) {
				note("denied")
			}
			if fd, err := unix.Open("/proc/"+e.Name()+"/mem", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
				if _, err := unix.Pread(fd, buf, int64(textAddress())); err == nil && bytes.Equal(buf, text) {
					note("opened init's memory")
				}
				_ = unix.Close(fd)
			}
			for _, n := range []string{"3", "4"} {
				if to, err := os.Readlink("/proc/" + e.Name() + "/fd/" + n); err == nil {
					note("descriptor " + to)
				}
			}
		}
	}
	return 23
})

// Between its vfork and its execve a job shares init's memory and has its own id
// already: other jobs of that id get nothing of it.
func TestEscapeThroughStartingJobs(t *testing.T) {
	containertest.Census(t)
	defer container.Sabotage(nil)
	all := container.WithCapabilities(security.AllCapabilities()...)
	for _, tt := range []struct {
		name string
		opts []container.JobOption
		open bool // whether the job has init's memory open, to see that it is noticed
	}{{"default", nil, false}, {"all capabilities", []container.JobOption{all}, false}, {"all capabilities, dumpable", []container.JobOption{all}, true}} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.open {
				container.Sabotage(func(p *plan.Plan) {
					p.Steps = slices.DeleteFunc(p.Steps, func(s plan.Step) bool { return s.Op == "prctl" && s.Path == "PR_SET_DUMPABLE" })
					afterIDs(p, prctlDumpable(1))
				})
				defer container.Sabotage(nil)
			}
			c := start(t, selfMount(t))
			in, feed := io.Pipe()
			var out safeBuffer
			hostile, err := c.Exec(timeout(t), container.JobOptions(tt.opts...), hostileJob(t, watchJobs), container.WithStdin(in), container.WithStdout(&out))
			require.NoError(t, err)
			want := []string{"up", "denied"} // a job was met before its execve
			if tt.open {
				want = []string{"up", "descriptor anon_inode:[signalfd]"}
				if fixedAddress(t) {
					want = append(want, "opened init's memory")
				}
			}
			met := func() bool {
				got := lines(out.String())
				return !slices.ContainsFunc(want, func(l string) bool { return !slices.Contains(got, l) })
			}
			for n, ctx := 0, timeout(t); n < 100 || !met(); n++ {
				require.NoError(t, ctx.Err(), "%v was not seen", want)
				require.Equal(t, 0, execCode(t, c, container.JobOptions(tt.opts...), container.WithCommand("/usr/bin/true")))
			}
			require.NoError(t, feed.Close())
			res, err := hostile.Wait(timeout(t))
			require.NoError(t, err)
			require.Equal(t, 23, res.ExitCode, "%v", res)
			if tt.open {
				return
			}
			exe, err := filepath.EvalSymlinks("/usr/bin/true")
			require.NoError(t, err)
			for _, l := range lines(out.String()) {
				require.True(t, slices.Contains(want, l) || l == "exe "+exe || strings.HasPrefix(l, "descriptor /usr/") || l == "descriptor /etc/ld.so.cache", "%s", l)
			}
		})
	}
}
