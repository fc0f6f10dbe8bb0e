//go:build linux

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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

// binary is the program under test. Where there is no go command, the test
// binary plays it: it has the same main.
var binary, playAs string

const playEnv = "INLAY_RUN_IS_TEST_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(playEnv) != "" {
		main()
	}
	if way := os.Getenv(badEndEnv); way != "" {
		badEnd(way)
	}
	os.Exit(test(m))
}

func test(m *testing.M) int {
	dir, err := os.MkdirTemp("", "inlay-run-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the temporary folder
	binary = filepath.Join(dir, "run")
	if _, err := exec.LookPath("go"); err != nil {
		if binary, err = os.Executable(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		playAs = playEnv + "=1"
		return m.Run()
	}
	build := exec.Command("go", "build", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// outcome is what a person sees of one command.
type outcome struct {
	code           int
	stdout, stderr string
}

// command is the program with arguments, in an empty folder.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = os.Environ()
	if playAs != "" {
		cmd.Env = append(cmd.Env, playAs)
	}
	return cmd
}

func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// do runs the program to its end.
func do(t *testing.T, args ...string) outcome {
	t.Helper()
	return finish(t, command(t, args...))
}

// output is what a job that succeeds writes.
func output(t *testing.T, args ...string) string {
	t.Helper()
	o := do(t, args...)
	require.Zero(t, o.code, "%+v", o)
	require.Empty(t, o.stderr)
	return o.stdout
}

func needContainers(t *testing.T) {
	t.Helper()
	containertest.Require(t, containertest.Containers)
}

// open makes a folder that every id may use: as root, jobs have ids of their own.
func open(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777))
	return dir
}

func TestExitCodes(t *testing.T) {
	needContainers(t)
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stderr string // a part of it; empty: nothing
	}{
		{"success", []string{"--", "true"}, 0, ""},
		{"without --", []string{"true"}, 0, ""},
		{"the job's own", []string{"--", "sh", "-c", "exit 7"}, 7, ""},
		{"the job's own 125", []string{"--", "sh", "-c", "exit 125"}, 125, ""},
		{"flags of the job", []string{"sh", "-c", "exit 8"}, 8, ""},
		{"SIGKILL", []string{"--", "sh", "-c", "kill -KILL $$"}, 137, ""},
		{"SIGSEGV", []string{"--", "sh", "-c", "kill -SEGV $$"}, 139, ""},
		{"SIGTERM", []string{"--", "sh", "-c", "kill -TERM $$"}, 143, ""},
		{"not found", []string{"--", "no-such-command"}, 127, "command not found: not in the container's PATH"},
		{"no such path", []string{"--", "/no/such/command"}, 127, "command not found"},
		{"a folder", []string{"--", "/usr"}, 126, "it is a folder"},
		{"no x bit", []string{"--", "/proc/self/status"}, 126, "command not executable"},
		{"time limit", []string{"--time-limit", "50ms", "--", "sleep", "1000"}, 137, "time limit"},
		{"time limit, one dash", []string{"-time-limit=50ms", "sleep", "1000"}, 137, "time limit"},
		{"below its time limit", []string{"--time-limit", "1m", "--", "true"}, 0, ""},
		{"no such volume", []string{"--volume", "/no/such:/w", "--", "true"}, 125, "/no/such: no such file or directory"},
		{"no such root", []string{"--rootfs", "/no/such", "--", "true"}, 125, "WithRoot needs a folder that is there"},
		{"no such folder", []string{"--workdir", "/no/such", "--", "true"}, 125, "the working folder must be there"},
		{"memory", []string{"--memory", "64x", "--", "true"}, 125, "--memory 64x: not a number of bytes like 64m"},
		{"little memory", []string{"--memory", "64k", "--", "true"}, 125, "WithMemoryLimit"},
		{"swap alone", []string{"--memory-swap", "64m", "--", "true"}, 125, "--memory-swap needs --memory"},
		{"little swap", []string{"-m", "64m", "--memory-swap", "32m", "--", "true"}, 125, "below --memory: it is the sum of both"},
		{"cpus", []string{"--cpus", "0", "--", "true"}, 125, "WithCPULimit(0): not between 0.01 and 8192"},
		{"pids", []string{"--pids-limit", "0", "--", "true"}, 125, "WithPidsLimit"},
		{"cpuset", []string{"--cpuset-cpus", "x", "--", "true"}, 125, "WithCPUSet"},
		{"device-write-bps", []string{"--device-write-bps", "/dev/sda", "true"}, 125, "not DEV:N"},
		{"no device", []string{"--device-read-iops", "/proc:5", "true"}, 125, noDevice(t)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := do(t, tt.args...)
			require.Equal(t, tt.code, o.code, "%+v", o)
			require.Empty(t, o.stdout)
			if tt.stderr == "" {
				require.Empty(t, o.stderr)
			} else {
				require.Contains(t, o.stderr, tt.stderr)
			}
		})
	}
}

// What is wrong with the command line is said in a line, and nothing runs. It
// needs no container.
func TestBadFlags(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		stderr string
	}{
		{"nothing", nil, "no command"},
		{"no command", []string{"--hostname", "a", "--"}, "no command"},
		{"empty command", []string{"--", ""}, "empty name"},
		{"unknown", []string{"--privileged", "true"}, "not defined: -privileged"},
		{"volume", []string{"--volume", "x", "true"}, "not SRC:DST[:ro]"},
		{"empty source", []string{"--volume", ":/w", "true"}, "not SRC:DST[:ro]"},
		{"volume option", []string{"-v", "x:/w:rx", "true"}, "not SRC:DST[:ro]"},
		{"volume on /", []string{"-v", "x:/", "true"}, "the root is set by WithRoot"},
		{"volume on a relative path", []string{"-v", "x:w", "true"}, "relative"},
		{"tmpfs option", []string{"--tmpfs", "/x:mode=1", "true"}, "not DST[:size=N]"},
		{"tmpfs size", []string{"--tmpfs", "/x:size=1t", "true"}, "not DST[:size=N]"},
		{"tmpfs of nothing", []string{"--tmpfs", "/x:size=0", "true"}, "at least 1 byte"},
		{"size out of range", []string{"--tmpfs", "/x:size=9999999999g", "true"}, "not DST[:size=N]"},
		{"size below zero", []string{"--tmpfs", "/x:size=-1", "true"}, "not DST[:size=N]"},
		{"user and more", []string{"--user", "a:b:c", "true"}, "a colon"},
		{"no group", []string{"-u", "1:", "true"}, "empty name"},
		{"no supplementary group", []string{"--group-add", "", "true"}, "empty name"},
		{"no user", []string{"-u", "4294967295", "true"}, "not an id"},
		{"relative folder", []string{"-w", "tmp", "true"}, "relative"},
		{"variable", []string{"--env", "FOO", "true"}, "not of the form KEY=value"},
		{"hostname", []string{"--hostname", "a b", "true"}, "WithHostname"},
		{"network", []string{"--network", "slirp", "true"}, "none, host, ns:PATH and pid:N are in this version"},
		{"a bridge's flag on another network", []string{"--network", "host", "--dns", "10.0.0.1", "true"}, "they are a bridge's"},
		{"bandwidth without a network", []string{"--bandwidth", "20mbit", "true"}, "no network but lo"},
		{"a rate", []string{"--network", "bridge", "--egress", "20mb", "true"}, "no rate"},
		{"add-host", []string{"--add-host", "db", "true"}, "not NAME:ADDR"},
		{"capability", []string{"--cap-add", "root", "true"}, "does not exist"},
		{"security-opt", []string{"--security-opt", "apparmor=x", "true"}, "not seccomp=FILE"},
		{"no profile", []string{"--security-opt", "seccomp=/nowhere", "true"}, "no such file"},
		{"bad profile", []string{"--security-opt", "seccomp=/etc/passwd", "true"}, "seccomp profile: "},
		{"ulimit", []string{"--ulimit", "nofile", "true"}, "not name=soft[:hard]"},
		{"ulimit name", []string{"--ulimit", "files=1", "true"}, "does not exist"},
		{"ulimit number", []string{"--ulimit", "nofile=-2", "true"}, "not name=soft[:hard]"},
		{"ulimit order", []string{"--ulimit", "nofile=2:1", "true"}, "above the hard limit"},
		{"time limit", []string{"--time-limit", "5", "true"}, "missing unit"},
		{"time limit of zero", []string{"--time-limit", "0s", "true"}, "not above zero"},
		{"two mounts on one folder", []string{"--tmpfs", "/x", "--tmpfs", "/x", "true"}, "already"},
		{"publish", []string{"--publish", "80:x", "true"}, "no port"},
		{"dns", []string{"--dns", "localhost", "true"}, "dns"},
		{"pid of another container", []string{"--pid", "container:x", "true"}, "by pid:N, or ns:PATH"},
		{"ipc that is none", []string{"--ipc", "shareable", "true"}, "private, host, ns:PATH and pid:N"},
		{"uts of no process", []string{"--uts", "pid:0", "true"}, "not pid:N"},
		{"network of a name", []string{"--network", "pid:web", "true"}, "not pid:N"},
		{"user namespace by a relative path", []string{"--userns", "ns:x", "true"}, "not an absolute path"},
		{"network by no path", []string{"--network", "ns:", "true"}, "no path"},
		{"hostname of a joined one", []string{"--uts", "pid:1", "--hostname", "a", "true"}, "WithJoinNamespace(uts"},
		{"boottime", []string{"--boottime", "5", "true"}, "missing unit"},
		{"offset of joined clocks", []string{"--timens", "pid:1", "--monotonic", "1h", "true"}, "whose clocks are set"},
		{"device", []string{"--device", "/dev/null:/dev/x:rw:r", "true"}, "not SRC[:DST][:rwm]"},
		{"no device", []string{"--device", "", "true"}, "not SRC[:DST][:rwm]"},
		{"device letters", []string{"--device", "/dev/null:/dev/x:rx", "true"}, "letters of r, w and m"},
		{"device that is not there", []string{"--device", "/dev/no-such", "true"}, "WithDevice needs a device that is there"},
		{"relative device", []string{"--device", "null", "true"}, "relative"},
		{"archive that is none", []string{"--rootfs", "/etc/passwd", "--", "true"}, "tar"},
		{"sysctl", []string{"--sysctl", "net.core.somaxconn", "true"}, "not NAME=VALUE"},
		{"sysctl of the machine", []string{"--sysctl", "kernel.core_pattern=x", "true"}, "the whole machine's"},
		{"result in no folder", []string{"--result", "no/such/file", "true"}, "no such file or directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := do(t, tt.args...)
			require.Equal(t, 125, o.code, "%+v", o)
			require.Empty(t, o.stdout)
			require.Contains(t, o.stderr, tt.stderr)
			require.Equal(t, 1, strings.Count(o.stderr, "\n"), "%s", o.stderr)
			require.True(t, strings.HasPrefix(o.stderr, "inlay: "), "%s", o.stderr)
		})
	}
}

func TestHelp(t *testing.T) {
	o := do(t, "--help")
	require.Zero(t, o.code)
	require.Empty(t, o.stderr)
	for _, name := range []string{"rootfs", "read-only", "changes", "device", "volume", "tmpfs", "user", "workdir", "env", "hostname", "domainname", "sysctl", "network", "cap-add", "security-opt", "ulimit", "time-limit", "result", "explain", "trace", "probe", "pid", "ipc", "uts", "userns", "timens", "monotonic", "boottime", "publish", "dns", "add-host", "bandwidth", "egress", "ingress"} {
		require.Contains(t, o.stdout, "-"+name)
	}
}

// Namespaces of a process that runs are joined, by its number or by path; clocks are
// shifted.
func TestNamespaceFlags(t *testing.T) {
	needContainers(t)
	if os.Getuid() != 0 {
		t.Skip("needs root: a user's program has no power over the containers of another")
	}
	other, err := container.New()
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	require.NoError(t, other.Start(t.Context()))
	pid := make(chan string)
	const readlinks = "for n in net ipc uts; do readlink /proc/self/ns/$n; done" // busybox takes one
	r, w := io.Pipe()
	p, err := other.Exec(t.Context(), container.WithCommand("/bin/sh", "-c", readlinks+"; exec sleep 1000"), container.WithStdout(w))
	require.NoError(t, err)
	go func() {
		text := ""
		for lines := bufio.NewScanner(r); strings.Count(text, "\n") < 3 && lines.Scan(); {
			text += lines.Text() + "\n"
		}
		pid <- text
	}()
	want := <-pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", other.PID(), other.PID()))
	require.NoError(t, err)
	job := strings.TrimSpace(string(children))
	links := []string{"sh", "-c", readlinks}
	require.Equal(t, want, output(t, append([]string{"--network", "pid:" + job, "--ipc", "ns:/proc/" + job + "/ns/ipc", "--uts", "pid:" + job, "--userns", "pid:" + job}, links...)...))
	o := do(t, append([]string{"--network", "none", "--ipc", "private"}, links...)...)
	require.Zero(t, o.code)
	for _, l := range strings.Fields(want) {
		require.NotContains(t, o.stdout, l)
	}
	require.NoError(t, p.Kill())
	_, err = p.Wait(t.Context())
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

func TestDevice(t *testing.T) {
	require.Equal(t, "1:5\n", output(t, "--device", "/dev/zero:/dev/x:rw", "--", "sh", "-c", "head -c1 /dev/x >/dev/null && stat -c %t:%T /dev/x"))
	require.Equal(t, "1:7\n", output(t, "--device", "/dev/full:rwm", "--", "stat", "-c", "%t:%T", "/dev/full"))
}

// An archive is a root that can be written to, and is as it was for the next.
func TestArchive(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{{Name: "data/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "data/f", Mode: 0o644}} {
		require.NoError(t, w.WriteHeader(&h))
	}
	for _, dir := range []string{"bin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + dir); err == nil {
			require.NoError(t, w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeSymlink, Linkname: to}))
		}
	}
	require.NoError(t, w.Close())
	archive := filepath.Join(t.TempDir(), "root.tar")
	require.NoError(t, os.WriteFile(archive, b.Bytes(), 0o644))
	args := []string{"--rootfs", archive, "-v", "/usr:/usr:ro"}
	for _, dir := range []string{"/bin", "/lib", "/lib64"} {
		if st, err := os.Lstat(dir); err == nil && st.IsDir() {
			args = append(args, "-v", dir+":"+dir+":ro")
		}
	}
	run := func(more ...string) string {
		return output(t, append(append(args, more...), "--", "sh", "-c", "ls /data; if (echo x >/data/new) 2>/dev/null; then echo written; else echo refused; fi")...)
	}
	require.Equal(t, "f\nwritten\n", run())
	require.Equal(t, "f\nwritten\n", run())
	require.Equal(t, "f\nrefused\n", run("--read-only"))
}

// Programs of the host run as they are.
func TestPrograms(t *testing.T) {
	needContainers(t)
	for _, tt := range []struct {
		name   string
		args   []string
		stdout string
	}{
		{"sh", []string{"-c", "echo $((6*7))"}, "42\n"},
		{"awk", []string{"BEGIN { print 6*7 }"}, "42\n"},
		{"python3", []string{"-c", "import json, sys; print(json.dumps(6*7))"}, "42\n"},
		{"perl", []string{"-MList::Util=sum", "-e", `print sum(20, 22), "\n"`}, "42\n"},
		{"git", []string{"-C", "/usr", "--version"}, "git version "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			needProgram(t, tt.name)
			require.True(t, strings.HasPrefix(output(t, append([]string{"--", tt.name}, tt.args...)...), tt.stdout))
		})
	}
}

// needProgram skips where the host does not have the program where a default
// container shows it: a container's root has the host's /usr, not its /home.
func needProgram(t *testing.T, name string) {
	t.Helper()
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return
		}
	}
	t.Skipf("needs program %s: it is not below /usr", name)
}

// A compiler, and what it compiled, in one container and in the next.
func TestCompiler(t *testing.T) {
	needContainers(t)
	needProgram(t, "cc")
	dir := open(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.c"), []byte("#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 6*7); return 3; }\n"), 0o644))
	o := do(t, "--volume", dir+":/w", "--workdir", "/w", "--", "sh", "-c", "cc -o a a.c && ./a")
	require.Equal(t, outcome{3, "42\n", ""}, o)
	require.Equal(t, outcome{3, "42\n", ""}, do(t, "-v", dir+":/w:ro", "-w", "/w", "--", "./a"))
}

// A whole life of a repository, in a container's own memory.
func TestGit(t *testing.T) {
	needContainers(t)
	needProgram(t, "git")
	const script = `set -e; cd /tmp; git init -q r; cd r; echo hello >f; git add f
git -c user.name=a -c user.email=a@b commit -qm first; git log --format=%s; git show HEAD:f`
	require.Equal(t, "first\nhello\n", output(t, "--", "sh", "-c", script))
}

func TestStdio(t *testing.T) {
	needContainers(t)
	cmd := command(t, "--", "sh", "-c", "tr a-z A-Z; echo bad >&2")
	cmd.Stdin = strings.NewReader("hello\n")
	require.Equal(t, outcome{0, "HELLO\n", "bad\n"}, finish(t, cmd))
}

func TestVolume(t *testing.T) {
	needContainers(t)
	dir := open(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("from the host"), 0o644))
	parent, name := filepath.Split(dir)
	relative := command(t, "-v", name+":/w:ro", "--", "cat", "/w/f")
	relative.Dir = parent
	require.Equal(t, outcome{0, "from the host", ""}, finish(t, relative))
	o := do(t, "-v", dir+":/w:ro", "--", "sh", "-c", "echo x >/w/a")
	require.NotZero(t, o.code)
	require.Contains(t, o.stderr, "Read-only file system")
	output(t, "-v", dir+":/w", "--", "sh", "-c", "echo x >/w/a")
	b, err := os.ReadFile(filepath.Join(dir, "a"))
	require.NoError(t, err)
	require.Equal(t, "x\n", string(b))
}

func TestFlags(t *testing.T) {
	needContainers(t)
	for _, tt := range []struct {
		name   string
		flags  []string
		script string
		stdout string
	}{
		{"tmpfs", []string{"--tmpfs", "/data:size=1m"}, "head -c 2000000 /dev/zero 2>/dev/null >/data/f; wc -c </data/f", "1048576\n"},
		{"two tmpfs", []string{"--tmpfs", "/a", "-tmpfs=/b:size=8k"}, "ls -d /a /b", "/a\n/b\n"},
		{"workdir", []string{"--workdir", "/usr/bin"}, "pwd", "/usr/bin\n"},
		{"env", []string{"--env", "A=1", "-e", "B=x=y", "-e", "A=2"}, "echo $A $B", "2 x=y\n"},
		{"hostname", []string{"--hostname", "box"}, "cat /proc/sys/kernel/hostname", "box\n"},
		{"domainname", []string{"--domainname", "box"}, "cat /proc/sys/kernel/domainname", "box\n"},
		{"sysctl", []string{"--sysctl", "net.ipv4.ip_unprivileged_port_start=7", "--sysctl", "net.ipv4.ip_local_port_range=2000 3000"}, "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ip_local_port_range", "7\n2000\t3000\n"},
		{"no network", []string{"--network", "host", "--network", "none"}, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '", "lo\n"},
		{"no capability", nil, "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"},
		{"capability", []string{"--cap-add", "NET_ADMIN", "--cap-add", "cap_chown"}, "grep CapEff /proc/self/status", "CapEff:\t0000000000001001\n"},
		{"seccomp", nil, "grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null || echo alone", "Seccomp:\t2\nalone\n"},
		{"strict", []string{"--security-opt", "seccomp=strict"}, "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"},
		{"ulimit", []string{"--ulimit", "nofile=7:9", "--ulimit", "fsize=0"}, "ulimit -n; ulimit -Hn; ulimit -f", "7\n9\n0\n"},
		{"user", []string{"--user", "0"}, "id -u; id -g", "0\n0\n"},
		{"user by name", []string{"-u", "root:root"}, "id -u; id -g", "0\n0\n"},
		{"nothing of the host's environment", nil, "env | grep -c INLAY_TEST; :", "0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := command(t, append(tt.flags, "--", "sh", "-c", tt.script)...)
			cmd.Env = append(cmd.Env, "INLAY_TEST=1")
			require.Equal(t, outcome{0, tt.stdout, ""}, finish(t, cmd))
		})
	}
	t.Run("unconfined", func(t *testing.T) {
		t.Parallel()
		// One less than with a profile: where a job has init's own id there is another.
		filters := func(flags ...string) int {
			text := output(t, append(flags, "--", "sh", "-c", "grep Seccomp_filters: /proc/self/status")...)
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(text, "Seccomp_filters:")))
			require.NoError(t, err, text)
			return n
		}
		require.Equal(t, filters()-1, filters("--security-opt", "seccomp=unconfined"))
	})
	t.Run("other user", func(t *testing.T) {
		t.Parallel()
		containertest.Require(t, containertest.Users)
		require.Equal(t, "1000\n100\n", output(t, "--user", "1000:100", "--", "sh", "-c", "id -u; id -g"))
		require.Equal(t, "65534\n65534 7\n", output(t, "--user", "nobody", "--group-add", "7", "--", "sh", "-c", "id -u; id -G"))
	})
	t.Run("the host's network", func(t *testing.T) {
		t.Parallel()
		host, err := os.Readlink("/proc/self/ns/net")
		require.NoError(t, err)
		require.Equal(t, host+"\n", output(t, "--network", "host", "--", "readlink", "/proc/self/ns/net"))
		require.NotEqual(t, host+"\n", output(t, "--", "readlink", "/proc/self/ns/net"))
	})
}

// A folder as the root: read-only, with a program that needs nothing else.
func TestRootfs(t *testing.T) {
	needContainers(t)
	needProgram(t, "cc")
	dir := open(t)
	for _, d := range []string{"proc", "dev", "tmp", "run"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	const source = `#include <stdio.h>
#include <fcntl.h>
#include <errno.h>
int main(void) { int fd = open("/new", O_CREAT|O_WRONLY, 0644); printf("%d\n", fd < 0 && errno == EROFS); return 0; }
`
	cc := exec.CommandContext(t.Context(), "cc", "-static", "-o", filepath.Join(dir, "job"), "-x", "c", "-")
	cc.Stdin = strings.NewReader(source)
	if out, err := cc.CombinedOutput(); err != nil {
		t.Skipf("needs a static C library: %v: %s", err, out)
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "job"), 0o755))
	require.Equal(t, "1\n", output(t, "--rootfs", dir, "--read-only", "--", "/job"))
	relative := command(t, "--read-only", "--rootfs", filepath.Base(dir), "--", "/job")
	relative.Dir = filepath.Dir(dir)
	require.Equal(t, outcome{0, "1\n", ""}, finish(t, relative))
	require.Equal(t, 127, do(t, "--read-only", "--rootfs", dir, "--", "sh").code)
}

func TestResult(t *testing.T) {
	needContainers(t)
	file := filepath.Join(t.TempDir(), "result.json")
	read := func() (res container.Result) {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &res))
		require.NoError(t, os.Remove(file))
		return res
	}
	require.Equal(t, 3, do(t, "--result", file, "--", "sh", "-c", "exit 3").code)
	res := read()
	require.Equal(t, container.Exited, res.Status)
	require.Equal(t, 3, res.ExitCode)
	require.Positive(t, res.WallTime)

	require.Equal(t, 137, do(t, "--result", file, "--time-limit", "50ms", "--", "sleep", "1000").code)
	res = read()
	require.Equal(t, container.TimeLimit, res.Status)
	require.Equal(t, syscall.SIGKILL, res.Signal)
	require.GreaterOrEqual(t, res.WallTime, 50*time.Millisecond)

	// No result of what did not run; and no file of somebody else's is changed.
	missing := do(t, "--result", file, "--", "no-such-command")
	require.Equal(t, 127, missing.code, "%+v", missing)
	require.NoFileExists(t, file)
	require.NoError(t, os.WriteFile(file, []byte("mine"), 0o644))
	o := do(t, "--result", file, "--", "true")
	require.Equal(t, 125, o.code)
	require.Contains(t, o.stderr, "file exists")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "mine", string(b))
}

// The plan is printed and the job does not run.
func TestExplain(t *testing.T) {
	dir := t.TempDir()
	o := do(t, "--explain", "--hostname", "box", "-v", dir+":/w", "--", "touch", "/w/ran")
	require.Zero(t, o.code, "%+v", o)
	require.NoFileExists(t, filepath.Join(dir, "ran"))
	at := 0
	for _, want := range []string{"clone3(", dir, "pivot_root(", `sethostname("box"`, `"PR_SET_NO_NEW_PRIVS"`, "execve("} {
		i := strings.Index(o.stdout[at:], strings.Trim(want, `"`))
		require.GreaterOrEqual(t, i, 0, "%s, in this order, in\n%s", want, o.stdout)
		at += i
	}
}

// A trace is one line for each step, with its time, on standard error: with the
// program's own output apart, and with --stats too.
func TestTrace(t *testing.T) {
	needContainers(t)
	o := do(t, "--trace", "--", "/bin/echo", "out")
	require.Zero(t, o.code, "%+v", o)
	require.Equal(t, "out\n", o.stdout)
	for _, line := range strings.Split(strings.TrimSuffix(o.stderr, "\n"), "\n") {
		require.Regexp(t, `^(launcher {6}clone3|(prepare|parent|child|exec) +\d+  \w+).* <\d+\.\d{6}>$`, line)
	}
	for _, want := range []string{"launcher      clone3(", "prepare    1  ", "child      1  ", `execve("/bin/echo"`} {
		require.Contains(t, o.stderr, want)
	}
	o = do(t, "--trace", "--", "/none/such")
	require.Equal(t, 127, o.code)
	require.Contains(t, o.stderr, `execve("/none/such"`, "a start that fails is traced")
}

// Probe says what this host can do, in words, and in its exit code.
func TestProbe(t *testing.T) {
	needContainers(t)
	o := do(t, "--probe")
	require.Zero(t, o.code, "%+v", o)
	require.NotEmpty(t, o.stdout)
	require.Empty(t, o.stderr)
	o = do(t, "--probe", "--rootfs", "/no/such", "--", "true")
	require.Equal(t, 125, o.code, "%+v", o)
	require.Contains(t, o.stdout+o.stderr, "/no/such")
}

// A signal ends the container: no process is left of it, nor of the launcher.
func TestSignals(t *testing.T) {
	needContainers(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			leavesNothing(t, sig, 137, "canceled")
		})
	}
	// Even the one that nobody can answer.
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		leavesNothing(t, syscall.SIGKILL, -1, "")
	})
}

func leavesNothing(t *testing.T, sig syscall.Signal, code int, verdict string) {
	t.Helper()
	// Two processes of the job, one of which would not go by itself.
	cmd := command(t, "--", "sh", "-c", "trap '' TERM INT HUP; sleep 1000 & echo ready; wait")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	all := descendants(t, cmd.Process.Pid)
	require.GreaterOrEqual(t, len(all), 4, "launcher, init, sh, sleep: %v", all)

	require.NoError(t, cmd.Process.Signal(sig))
	_, err = io.Copy(io.Discard, out)
	require.NoError(t, err)
	_ = cmd.Wait() // its code is what the test asks for
	require.Equal(t, code, cmd.ProcessState.ExitCode(), "%s", stderr.String())
	require.Contains(t, stderr.String(), verdict)
	for pid, fd := range all {
		gone(t, pid, fd)
	}
}

// gone waits until the process has ended: its pidfd is readable then.
func gone(t *testing.T, pid, fd int) {
	t.Helper()
	defer unix.Close(fd) //nolint:errcheck // a pidfd: nothing to flush
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		require.NoError(t, err)
		require.Equal(t, 1, n, "process %d is still there", pid)
		return
	}
}

// descendants returns a pidfd for each process that comes of pid.
func descendants(t *testing.T, pid int) map[int]int {
	t.Helper()
	all := map[int]int{}
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", todo[0]))
		require.NoError(t, err)
		for _, file := range tasks {
			b, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				continue // a thread that has ended meanwhile
			}
			require.NoError(t, err)
			for _, f := range strings.Fields(string(b)) {
				child, err := strconv.Atoi(f)
				require.NoError(t, err)
				fd, err := unix.PidfdOpen(child, 0)
				require.NoError(t, err)
				all[child] = fd
				todo = append(todo, child)
			}
		}
	}
	return all
}

// noDevice is what is wrong with a device that is none, or before that.
func noDevice(t *testing.T) string {
	t.Helper()
	switch top := containertest.Groups(t); {
	case top == nil:
		return "WithIOLimit: there are no control groups here"
	case !top.Has("io"):
		return "WithIOLimit: the controller io is not in"
	}
	return "lies on no disk"
}

// What a program changes in a folder stays in memory, and can be printed.
func TestChanges(t *testing.T) {
	needContainers(t)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, d := range []string{"usr", "data"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	for _, n := range []string{"bin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + n); err == nil {
			require.NoError(t, os.Symlink(to, filepath.Join(dir, n)))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data/old"), nil, 0o644))
	o := do(t, "--changes", "--rootfs", dir, "-v", "/usr:/usr:ro", "--", "sh", "-c", "rm /data/old; echo 1 >/data/new")
	if strings.Contains(o.stderr, "rootfs.Upper") {
		t.Skip("needs Linux 6.6: user attributes in memory file systems")
	}
	require.Zero(t, o.code, o.stderr)
	require.Equal(t, "A /data/new\nD /data/old\n", o.stderr)
	require.FileExists(t, filepath.Join(dir, "data/old"))
	require.NoFileExists(t, filepath.Join(dir, "data/new"))
}

func TestClockFlags(t *testing.T) {
	needContainers(t)
	o := do(t, "--network", "ns:/etc/passwd", "true")
	require.Equal(t, 125, o.code)
	require.Contains(t, o.stderr, "it is no namespace")
	uptime, err := strconv.ParseFloat(strings.Fields(output(t, "--boottime", "876000h", "cat", "/proc/uptime"))[0], 64)
	require.NoError(t, err)
	require.Greater(t, uptime, float64(876000*3600))
}
