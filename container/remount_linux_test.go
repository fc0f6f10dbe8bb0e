package container_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// remounted is what a host program says of its containers.
type remounted struct {
	// Mounts are the mount points that jobs see, with the mounts' flags, by container.
	Mounts map[string][]string
	// Wrote are those of the paths that the job could write to.
	Wrote []string
	// Part is what a container saw of another one, and Idmap why a bind with other
	// owners was refused.
	Part, Idmap string
	Kernel      container.Finding
	Idmapped    bool
}

const remountHost = "remount host"

// remountLooks lists mounts: mount point, flags, propagation.
const remountLooks = `while read -r _ _ _ _ point flags rest; do echo "$point $flags ${rest%%- *}"; done </proc/self/mountinfo`

// remountWrites are paths below the tree that is bound, all of them writable on the host
// but for those named "kept".
var remountWrites = []string{"f", "in/f", "in/deep/f", "in/kept/f", "file", "with space/f", "covered/f"}

// A host program that has made mounts of its own, in a mount namespace of its own,
// without mount_setattr(2) if it is told so. It prints a remounted.
var _ = register(remountHost, func(args []string) int {
	if err := remountMounts(args[1]); err != nil {
		fmt.Println("mounts:", err)
		return 98
	}
	if err := hideMountSetattr(args[0] == "hidden"); err != nil {
		fmt.Println("filter:", err)
		return 98
	}
	got, err := remountContainers(args[1])
	if err != nil {
		fmt.Println("containers:", err)
		return 97
	}
	if err := json.NewEncoder(os.Stdout).Encode(got); err != nil {
		return 96
	}
	return 0
})

// remountMounts makes a tree of mounts: of all flags that can be kept, with names that
// mountinfo quotes, a file, one that is covered by another, and one that a path leads to
// through a covered one.
func remountMounts(dir string) error {
	tree := filepath.Join(dir, "tree")
	unix.Umask(0) // the files are for all ids
	mount := func(name string, flags uintptr) error {
		if err := os.MkdirAll(filepath.Join(tree, name), 0o755); err != nil {
			return err
		}
		return os.NewSyscallError("mount "+name, unix.Mount("none", filepath.Join(tree, name), "tmpfs", flags, "mode=777"))
	}
	touch := func(name string) error {
		return os.WriteFile(filepath.Join(tree, name), []byte("on the host\n"), 0o666)
	}
	err := joinErrors(
		mount(".", unix.MS_NOATIME), touch("f"), touch("file"),
		mount("in", unix.MS_NOEXEC|unix.MS_NODIRATIME), touch("in/f"),
		mount("in/deep", unix.MS_NOSUID|unix.MS_STRICTATIME), touch("in/deep/f"),
		mount("in/kept", 0), touch("in/kept/f"),
		unix.Mount("", tree+"/in/kept", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NODEV, ""),
		mount("with space", 0), touch("with space/f"),
		mount("covered", 0), mount("covered/below", 0), mount("covered", unix.MS_NOEXEC), touch("covered/f"),
		unix.Mount(tree+"/f", tree+"/file", "", unix.MS_BIND, ""),
	)
	if err != nil {
		return err
	}
	// As on most hosts: what is mounted later spreads.
	return unix.Mount("", tree, "", unix.MS_REC|unix.MS_SHARED, "")
}

// hideMountSetattr answers mount_setattr(2) as a kernel that does not know it, in all
// threads and in what they start. Without CAP_SYS_ADMIN that takes no_new_privs, which
// costs a user's range of ids, so a host program that hides nothing has it too.
func hideMountSetattr(hide bool) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	answer := uint32(0x7fff0000) // allow
	if hide {
		answer = 0x00050000 | uint32(unix.ENOSYS)
	}
	const load, equal, ret = 0x20, 0x15, 0x06
	program := []unix.SockFilter{{Code: load}, {Code: equal, Jf: 1, K: unix.SYS_MOUNT_SETATTR}, {Code: ret, K: answer}, {Code: ret, K: 0x7fff0000}}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	defer runtime.KeepAlive(program)
	return errnoOf(unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(ptr(&prog))))
}

func remountContainers(dir string) (*remounted, error) {
	ctx := context.Background()
	got := &remounted{Mounts: map[string][]string{}}
	state := container.WithStateDir(filepath.Join(dir, "state"))
	run := func(opts ...container.Option) ([]string, error) {
		var out bytes.Buffer
		res, err := container.Run(ctx, append(opts, state, container.WithStdout(&out), container.WithStderr(&out))...)
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("%w\n%s", err, out.String())
		}
		return strings.Split(strings.TrimSpace(out.String()), "\n"), nil
	}
	tree := filepath.Join(dir, "tree")
	binds := container.WithMounts(
		rootfs.Bind(tree, "/ro", rootfs.ReadOnly(), rootfs.NoExec()), rootfs.Bind(tree, "/rw"), rootfs.Bind(tree, "/suid", rootfs.Suid()),
		rootfs.Bind(tree+"/file", "/run/file", rootfs.ReadOnly()),
	)
	etc := container.WithRoot(rootfs.Host(rootfs.Etc("ssl")))
	for name, opts := range map[string][]container.Option{
		"default": nil,
		"etc":     {etc},
		"binds":   {binds},
		"root":    {container.WithRoot(rootfs.Dir(filepath.Join(dir, "root"))), container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()))},
		"empty":   {container.WithRoot(rootfs.Empty(rootfs.ReadOnly())), usr(), binds},
		"device":  {container.WithDevice("/dev/null", "/dev/other", "")},
	} {
		lines, err := run(append(opts, sh(remountLooks))...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		got.Mounts[name] = lines
	}
	lines, err := run(binds, sh(`for f; do { echo x >>"/ro/$f"; } 2>/dev/null && echo "/ro/$f"; { echo x >>"/rw/$f"; } 2>/dev/null && echo "/rw/$f"; done; true`, remountWrites...))
	if err != nil {
		return nil, err
	}
	got.Wrote = lines

	if err := got.otherContainer(ctx, tree, state); err != nil {
		return nil, err
	}
	report, err := container.Probe(ctx, state)
	if err != nil {
		return nil, err
	}
	for _, f := range report.Findings {
		if f.Name == "kernel" {
			got.Kernel = f
		}
	}
	return got, nil
}

// otherContainer looks what a container shows to another one, and whether a bind can be
// mapped.
func (got *remounted) otherContainer(ctx context.Context, tree string, state container.Option) error {
	first, err := container.New(state, container.WithMounts(rootfs.Tmpfs("/out"), rootfs.Tmpfs("/out/deep")))
	if err != nil {
		return err
	}
	defer first.Close() //nolint:errcheck // the second's error says more
	if err := first.Start(ctx); err != nil {
		return err
	}
	var out bytes.Buffer
	_, err = container.Run(ctx, state, container.WithMounts(first.Mount("/out", "/in")), container.WithStdout(&out),
		sh(`echo x 2>/dev/null >/in/f || echo refused; echo x 2>/dev/null >/in/deep/f || echo refused; `+remountLooks))
	if err != nil {
		return err
	}
	for _, l := range lines(out.String()) {
		if l == "refused" || strings.HasPrefix(l, "/in") {
			got.Part += l + "\n"
		}
	}

	res, err := container.Run(ctx, state, container.WithMounts(rootfs.Bind(tree, "/mapped", rootfs.IDMapped())), container.WithCommand("true"))
	var refused *container.StartError
	switch {
	case errors.As(err, &refused):
		got.Idmap = fmt.Sprint(refused)
	case err != nil:
		return err
	default:
		got.Idmapped = res.Err() == nil
	}
	return nil
}

// Without mount_setattr(2), as on Linux 5.10, jobs see the same mounts with the same
// flags, and write to the same ones.
func TestWithoutMountSetattr(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	containertest.Require(t, containertest.Program("unshare"))
	run := func(how string) *remounted {
		dir := t.TempDir()
		for _, d := range []string{"root/usr", "root/proc", "root/dev", "root/tmp", "root/run", "tree"} {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		}
		for _, l := range []string{"bin", "lib", "lib64"} {
			require.NoError(t, os.Symlink("usr/"+l, filepath.Join(dir, "root", l)))
		}
		require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // ids of the container go through it
		exe, err := os.Executable()
		require.NoError(t, err)
		args := []string{"--mount", exe, remountHost, how, dir}
		if os.Geteuid() != 0 {
			args = append([]string{"--user", "--map-root-user"}, args...)
		}
		cmd := exec.CommandContext(timeout(t), "unshare", args...)
		cmd.Env = append(os.Environ(), jobEnv, noLinger)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, "%s%s", out, &stderr)
		var got remounted
		require.NoError(t, json.Unmarshal(bytes.ReplaceAll(out, []byte(dir), []byte("DIR")), &got), "%s", out)
		return &got
	}
	hidden, plain := run("hidden"), run("plain")

	for name, mounts := range plain.Mounts {
		require.Equal(t, visible(mounts), visible(hidden.Mounts[name]), name)
	}
	require.Equal(t, plain.Wrote, hidden.Wrote)
	require.Equal(t, []string{"/rw/f", "/rw/in/f", "/rw/in/deep/f", "/rw/file", "/rw/with space/f", "/rw/covered/f"}, hidden.Wrote)
	require.Equal(t, plain.Part, hidden.Part)
	require.Contains(t, hidden.Part, "refused\nrefused\n/in ro,nosuid,nodev")
	if os.Geteuid() == 0 { // a user has one id in there, and nothing to map
		require.False(t, hidden.Idmapped)
		require.Contains(t, hidden.Idmap, "since Linux 5.12")
	}

	require.True(t, hidden.Kernel.Note)
	require.Contains(t, hidden.Kernel.Detail, "without mount_setattr: mounts are changed one by one")
}

// visible leaves out mounts that another one covers, to which no path leads, and what an
// older kernel cannot do.
func visible(mounts []string) []string {
	var out []string
	for i, m := range mounts {
		point, _, _ := strings.Cut(m, " ")
		covered := false
		for _, later := range mounts[i+1:] {
			p, _, _ := strings.Cut(later, " ")
			covered = covered || p == point || strings.HasPrefix(point, p+"/")
		}
		if !covered {
			out = append(out, strings.ReplaceAll(m, ",idmapped", ""))
		}
	}
	return out
}
