package container_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// explainedHost starts one container and writes its plan to a file.
var explainedHost = register("explained host", func(args []string) int {
	c, err := container.New(container.WithCommand("true", "x y"), container.WithHostname("box"), container.WithFile("/work/in", []byte("text"), 0o600),
		container.WithMounts(rootfs.Tmpfs("/t"), rootfs.Bind("/usr/share", "/share", rootfs.ReadOnly())), container.WithExtraFiles(os.Stdin))
	if err == nil {
		err = c.Start(context.Background())
	}
	if err == nil {
		_, err = c.Wait(context.Background())
	}
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
			err = joinErrors(c.Explain(f), f.Close())
		}
	}
	if err == nil {
		err = c.Close()
	}
	if err != nil {
		fmt.Println(err)
		return 98
	}
	return 0
})

var (
	planLine   = regexp.MustCompile(`^(\w+) +(\d+)  (\w+)(\(.*)$`)
	straceLine = regexp.MustCompile(`^(\d+) +(\w+)(\(.*)$`)
	quoted     = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
)

// traced is what a call is compared by: its name, and the strings in it.
func traced(name, args string) string {
	if name == "write" || name == "getcwd" || name == "ioctl" {
		return name // their data are printed in other ways
	}
	if i := strings.LastIndex(args, ") = "); i >= 0 {
		args = args[:i]
	}
	list := quoted.FindAllString(args, -1)
	if name == "execve" {
		list = list[:min(1, len(list))] // by what it was found; not its arguments
	}
	return name + strings.Join(list, " ")
}

// What Explain prints is what strace sees, call by call, in each of the
// processes.
func TestStraceSeesThePlan(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Root, containertest.Program("strace"))
	needContainers(t)
	if err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		t.Skip("needs Linux 5.12: without mount_setattr init remounts what mountinfo lists, and the plan does not")
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	require.NoError(t, err)
	usedMu.Lock()
	jobUsed[explainedHost] = true
	usedMu.Unlock()
	trace, plan := filepath.Join(dir, "trace"), filepath.Join(dir, "plan")
	cmd := exec.CommandContext(timeout(t), "strace", "-f", "-o", trace, "-s", "4096", "-e", "signal=none", exe, explainedHost, plan)
	cmd.Env = append(os.Environ(), jobEnv, noLinger)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	text, err := os.ReadFile(plan)
	require.NoError(t, err)
	want := map[string][]string{}
	for _, l := range lines(string(text)) {
		m := planLine.FindStringSubmatch(l)
		if m == nil || m[3] == "clone3" {
			require.Regexp(t, `^launcher |^\w+ +\d+  (check|poke) `, l, "a line that is no call")
			continue
		}
		want[m[1]] = append(want[m[1]], traced(m[3], m[4]))
	}
	text, err = os.ReadFile(trace)
	require.NoError(t, err)
	calls := map[string][]string{} // by process
	var order []string
	for _, l := range lines(string(text)) {
		m := straceLine.FindStringSubmatch(l)
		if m == nil {
			continue // the second half of a call, an exit
		}
		if calls[m[1]] == nil {
			order = append(order, m[1])
		}
		calls[m[1]] = append(calls[m[1]], traced(m[2], m[3]))
	}
	// Writing to cgroup.procs waits for all threads of the machine. It is done once
	// for each launcher, under systemd.
	for _, l := range lines(string(text)) {
		if strings.Contains(l, `cgroup.procs"`) && !strings.Contains(l, `"inlay-host/`) {
			require.NotRegexp(t, `O_WRONLY|O_RDWR`, l)
		}
	}
	// Each plan is one process's, without a call between that it does not name.
	for phase, name := range map[string]string{"prepare": "launcher", "parent": "launcher", "child": "init", "exec": "the job"} {
		require.NotEmpty(t, want[phase], phase)
		require.True(t, slices.ContainsFunc(order, func(pid string) bool { return contains(calls[pid], want[phase]) }),
			"no process, and not %s, did what phase %s says:\n%s\n\n%s", name, phase, strings.Join(want[phase], "\n"), text)
	}
}

// contains tells whether the part stands in the whole, without a gap. The last
// execve is the first that succeeds.
func contains(whole, part []string) bool {
	part = slices.Clone(part)
	for i := range part {
		if strings.HasPrefix(part[i], "execve") && strings.HasSuffix(part[i], `/usr/bin/true"`) {
			part = part[:i+1]
			break
		}
	}
	for i := 0; i+len(part) <= len(whole); i++ {
		if slices.Equal(whole[i:i+len(part)], part) {
			return true
		}
	}
	return false
}
