package container_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// oddHost is a host program that starts a container after it was left in an odd
// state by who started it: it sets the state and executes itself.
const oddHostName = "odd host"

var oddHost = register(oddHostName, func(args []string) int {
	if args[0] == "run" {
		return runOddHost(args[1:])
	}
	runtime.LockOSThread()
	fail := func(what string, err error) int {
		fmt.Println(what, err)
		return 98
	}
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP, unix.SIGINT, unix.SIGCHLD, unix.SIGUSR1, unix.SIGTERM)
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	unix.Umask(0)
	if err := unix.Setpgid(0, 0); err != nil {
		return fail("setpgid", err)
	}
	if _, err := unix.KeyctlJoinSessionKeyring("inlay-test"); err != nil {
		return fail("keyring", err)
	}
	key, err := unix.AddKey("user", "inlay-test", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
	if err != nil {
		return fail("key", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("300"), 0); err != nil {
		return fail("oom_score_adj", err)
	}
	nice, policy := 7, uintptr(3) // SCHED_BATCH
	if slices.Contains(args, "better") {
		nice, policy = -7, 1 // SCHED_FIFO
	}
	if slices.Contains(args, "shared mounts") {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fail("unshare", err)
		}
		// With one another, and not with the machine's.
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")); err != nil {
			return fail("mount", err)
		}
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err != nil {
		return fail("setpriority", err)
	}
	priority := int32(0)
	if policy == 1 {
		priority = 1
	}
	if err := errnoOf(unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, policy, uintptr(ptr(&priority)))); err != nil {
		return fail("sched_setscheduler", err)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return fail("sigmask", err)
	}
	return fail("exec", unix.Exec("/proc/self/exe", append([]string{os.Args[0], oddHostName, "run", strconv.Itoa(key)}, args...), os.Environ()))
})

// runOddHost prints what a job has that was started in the odd state.
func runOddHost(args []string) int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Println(err)
		return 98
	}
	fmt.Println("== host")
	for _, n := range []string{"status", "stat"} {
		text, err := os.ReadFile("/proc/self/" + n)
		if err != nil {
			fmt.Println(err)
			return 98
		}
		fmt.Printf("%s", text)
	}
	mount := container.WithMounts(rootfs.Bind(exe, "/run/test", rootfs.ReadOnly()))
	run := func(job ...container.JobOption) bool {
		res, err := container.Run(context.Background(), append(asOptions(job), mount, container.WithStdout(os.Stdout), container.WithStderr(os.Stdout))...)
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			fmt.Println("run:", err)
		}
		return err == nil
	}
	fmt.Println("== job")
	ok := run(container.WithCommand("/usr/bin/cat", "/proc/self/status", "/proc/self/stat", "/proc/self/mountinfo"))
	fmt.Println("== keyring")
	ok = run(container.WithCommand("/run/test", keyringJob, args[0]), container.WithSeccomp(security.Unconfined()), container.WithEnv(jobEnv, noLinger)) && ok
	fmt.Println("== oom")
	ok = run(container.WithCommand("/usr/bin/cat", "/proc/self/oom_score_adj")) && ok
	if slices.Contains(args, "shared mounts") {
		fmt.Println("== late mount")
		ok = lateMount(mount) && ok
	}
	if !ok {
		return 97
	}
	return 0
}

// lateMount mounts something below /usr, writable, while a container runs that
// shows it.
func lateMount(mount container.Option) bool {
	const at = "/usr/lib"
	c, err := container.New(mount)
	if err == nil {
		err = c.Start(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		return false
	}
	defer c.Close() //nolint:errcheck // this program ends
	if err = unix.Mount("tmpfs", at+"/systemd", "tmpfs", 0, ""); err != nil {
		err = unix.Mount("tmpfs", at, "tmpfs", 0, "")
	}
	if err != nil {
		fmt.Println(err)
		return false
	}
	p, err := c.Exec(context.Background(), container.WithCommand("/usr/bin/cat", "/proc/self/mountinfo"), container.WithStdout(os.Stdout))
	if err != nil {
		fmt.Println(err)
		return false
	}
	res, err := p.Wait(context.Background())
	return err == nil && res.Success()
}

// runHost runs a registered job as a host program on the machine itself and
// returns what it wrote; it must succeed.
func runHost(t *testing.T, args ...string) string {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	require.Contains(t, jobs, args[0])
	usedMu.Lock()
	jobUsed[args[0]] = true
	usedMu.Unlock()
	cmd := exec.CommandContext(timeout(t), exe, args...)
	cmd.Env = append(os.Environ(), jobEnv, noLinger)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// section is a part of what a host program wrote.
func section(t *testing.T, text, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "== "+name+"\n")
	require.True(t, ok, "%s", text)
	part, _, _ := strings.Cut(rest, "== ")
	return part
}

// mountsOf are the lines of /proc/PID/mountinfo in a text.
func mountsOf(text string) string {
	return strings.Join(slices.DeleteFunc(lines(text), func(l string) bool { return !strings.Contains(l, " - ") }), "\n")
}

// statFields are the fields of /proc/PID/stat from the state on.
func statFields(t *testing.T, text string) []string {
	t.Helper()
	for _, l := range lines(text) {
		if i := strings.LastIndex(l, ") "); i > 0 && len(strings.Fields(l[i:])) > 40 {
			return strings.Fields(l[i+2:])
		}
	}
	require.Fail(t, "no stat", "%s", text)
	return nil
}

// Nothing of an odd host program reaches the job: not its ignored and blocked
// signals, its umask, its keys, its priority or scheduling policy, nor does a
// mount spread.
func TestIsolationFromOddHost(t *testing.T) {
	containertest.Census(t)
	variants := map[string][]string{"worse": {"worse"}}
	if os.Geteuid() == 0 {
		variants["better"] = []string{"better"}
		variants["shared mounts"] = []string{"shared mounts"}
	}
	for name, args := range variants {
		t.Run(name, func(t *testing.T) {
			text := runHost(t, append([]string{oddHost, "set"}, args...)...)
			host, job := section(t, text, "host"), section(t, text, "job")
			require.NotEqual(t, "0000000000000000", field(host, "SigIgn"), "the host ignores nothing: no test")
			require.NotEqual(t, "0000000000000000", field(host, "SigBlk"), "the host blocks nothing: no test")
			require.Equal(t, "0000", field(host, "Umask"))
			for _, set := range []string{"SigBlk", "SigIgn", "SigCgt"} {
				assert.Equal(t, "0000000000000000", field(job, set), set)
			}
			require.Equal(t, "0022", field(job, "Umask"))
			assert.NotRegexp(t, `(?m)^\d+ .* (shared|master|propagate_from):\d+ .*- `, mountsOf(job))
			require.Equal(t, "0", statFields(t, job)[38], "scheduling policy")
			require.NotEqual(t, "0", statFields(t, host)[38], "the host has the ordinary policy: no test")
			if name == "better" {
				require.Equal(t, "0", statFields(t, job)[16], "nice")
			}
			if name == "shared mounts" {
				assert.NotContains(t, section(t, text, "late mount"), " /usr/lib", "a mount of the host's spread into the container")
			}
			score, err := strconv.Atoi(strings.TrimSpace(section(t, text, "oom")))
			require.NoError(t, err)
			require.GreaterOrEqual(t, score, 300)
			keys := lines(section(t, text, "keyring"))
			require.Regexp(t, `^session \d+ done$`, keys[0])
			require.Equal(t, "bytes 0 done", keys[1])
			require.Equal(t, "search ENOKEY", keys[2])
			require.Contains(t, []string{"read EACCES", "read ENOKEY"}, keys[3])
		})
	}
}
