package container_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// A device of the host is there, under whatever name, in every kind of root, and nothing
// else is.
func TestDevice(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink("/dev/zero", link))
	folder := t.TempDir()
	require.NoError(t, os.Chmod(folder, 0o755))
	for _, d := range []string{"proc", "dev", "tmp", "run", "usr", "bin", "lib", "lib64"} {
		require.NoError(t, os.Mkdir(filepath.Join(folder, d), 0o755))
	}
	binds := []container.Option{container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()))}
	for _, d := range []string{"bin", "lib", "lib64"} {
		if _, err := os.Stat("/" + d); err == nil {
			binds = append(binds, container.WithMounts(rootfs.Bind("/"+d, "/"+d, rootfs.ReadOnly())))
		}
	}
	for name, opts := range map[string][]container.Option{
		"host":   nil,
		"empty":  {container.WithRoot(rootfs.Empty()), usr()},
		"folder": append(binds, container.WithRoot(rootfs.Dir(folder))),
	} {
		t.Run(name, func(t *testing.T) {
			text := output(t, append(opts,
				container.WithDevice("/dev/full", "", ""), container.WithDevice(link, "/dev/deep/zero", "rw"), container.WithDevice("/dev/null", "/run/sink", "rwm"),
				sh(`stat -c '%n %F %t:%T' /dev/full /dev/deep/zero /run/sink; head -c 4 /dev/deep/zero | od -An -tx1; echo x 2>&1 >/dev/full; echo x >/run/sink; cat /run/sink
					mknod /tmp/node c 1 5 2>&1 || echo refused; touch /dev/new 2>/dev/null || echo closed`))...)
			require.Contains(t, text, "/dev/full character special file 1:7\n/dev/deep/zero character special file 1:5\n")
			require.Contains(t, text, " 00 00 00 00\n")
			require.Regexp(t, "No space left|I/O error", text) // dash's words, or others'
			require.Contains(t, text, "/run/sink character special file 1:3\n")
			require.Contains(t, text, "refused\n")
			require.Contains(t, text, "closed\n")
		})
	}
}

func TestDeviceRefused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.NoError(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	for path, want := range map[string]error{
		"/dev/no-such-device": unix.ENOENT, "/dev/null/x": unix.ENOTDIR, "/dev": unix.ENODEV, dir + "/file": unix.ENODEV, dir + "/loop": unix.ELOOP, dir + "/fifo": unix.ENODEV,
	} {
		fault := startFault(t, container.WithDevice(path, "/dev/x", ""))
		require.ErrorIs(t, fault, want, path)
		require.Equal(t, path, fault.Path)
		require.Contains(t, fault.Remedy, "WithDevice")
	}
	// Optional leaves out what is not there, and nothing else.
	c, err := container.New(sh("ls /dev/x /dev/full"), container.Optional(container.WithDevice("/dev/no-such-device", "/dev/x", "")))
	require.NoError(t, err)
	require.NoError(t, c.Start(timeout(t)))
	require.Equal(t, []container.Dropped{{Option: "WithDevice", Reason: "/dev/no-such-device is not there"}}, onlyDevices(c.Dropped()))
	require.NoError(t, c.Close())
	require.ErrorIs(t, startFault(t, container.Optional(container.WithDevice("/dev", "/dev/x", ""))), unix.ENODEV)
	// It is looked at again where it is copied: it may have been swapped.
	report, err := container.Probe(timeout(t), container.WithDevice("/dev/null", "/dev/x", "rw"))
	require.NoError(t, err)
	require.NotNil(t, report)
}

func onlyDevices(list []container.Dropped) (out []container.Dropped) {
	for _, d := range list {
		if d.Option == "WithDevice" {
			out = append(out, d)
		}
	}
	return out
}

// A node that only root of the host may open is of no use to who is none, and is refused
// with the reason.
func TestDeviceOfNoUse(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	containertest.Require(t, containertest.Root)
	node := filepath.Join(t.TempDir(), "node")
	require.NoError(t, unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	var mount unix.Statfs_t
	require.NoError(t, unix.Statfs(node, &mount))
	fault := startFault(t, container.WithDevice(node, "/dev/x", ""))
	require.ErrorIs(t, fault, unix.EACCES)
	if mount.Flags&unix.ST_NODEV != 0 {
		return // of no use to anybody
	}
	require.Contains(t, fault.Remedy, "mode 0600")
	// To root of the host it is, with and without rules; but its mode is the host's.
	text := output(t, container.WithHostNamespace(namespace.User), container.WithCapabilities("fowner"), container.WithDevice(node, "/dev/x", ""),
		sh("echo x >/dev/x && echo written; chmod 666 /dev/x 2>&1 || echo refused"))
	require.Contains(t, text, "written\n")
	require.Contains(t, text, "refused\n")
}

// Letters that are left out are kept by the controller, or not at all: then Start says so.
func TestDeviceAccess(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	script := sh(`head -c1 /dev/x >/dev/null && echo read; echo x >/dev/x && echo wrote; head -c1 /dev/zero >/dev/null && echo usual`)
	run := func(access string, opts ...container.Option) (string, error) {
		var out bytes.Buffer
		_, err := container.Run(timeout(t), append(opts, container.WithStdout(&out), container.WithDevice("/dev/null", "/dev/x", access), script)...)
		return out.String(), err
	}
	text, err := run("")
	require.NoError(t, err)
	require.Equal(t, "read\nwrote\nusual\n", text)
	// null itself is one of those that every container has: another one shows the rule.
	text, err = run("r")
	var limit *container.LimitError
	if errors.As(err, &limit) {
		require.Equal(t, "WithDevice", limit.Option)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		_, err = run("r", container.Optional(container.WithDevice("/dev/zero", "/dev/y", "")))
		require.ErrorAs(t, err, &limit, "Optional does not widen what jobs may do")
		_, err = run("r", container.Optional(container.WithDeviceRules("c 1:3 rwm")))
		require.ErrorAs(t, err, &limit)
		require.Equal(t, "WithDevice", limit.Option)
		return
	}
	require.NoError(t, err)
	require.Contains(t, text, "usual\n")
}

// With rules for devices, those of WithDevice are among them.
func TestDeviceAmongRules(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	containertest.Require(t, containertest.Root)
	// A node of ours with the numbers of a device that is not usual: the kernel's log.
	node := filepath.Join(t.TempDir(), "node")
	require.NoError(t, unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))))
	require.NoError(t, os.Chmod(node, 0o666))
	script := sh(`(true </dev/x) || echo "read refused"; (true >/dev/x) || echo "write refused"`)
	run := func(opts ...container.Option) (string, error) {
		var out bytes.Buffer
		_, err := container.Run(timeout(t), append(opts, container.WithStdout(&out), container.WithStderr(&out), container.WithHostNamespace(namespace.User), container.WithCapabilities("syslog"), script)...)
		return out.String(), err
	}
	text, err := run(container.WithDevice(node, "/dev/x", "r"))
	var limit *container.LimitError
	if errors.As(err, &limit) {
		require.Equal(t, "WithDevice", limit.Option)
		return
	}
	var fault *container.StartError
	if errors.As(err, &fault) {
		require.ErrorIs(t, err, unix.EACCES) // the temporary folder is on a mount without devices
		return
	}
	require.NoError(t, err)
	require.NotContains(t, text, "read refused")
	require.Contains(t, text, "write refused")
	text, err = run(container.WithDevice(node, "/dev/x", ""), container.WithDeviceRules("c 10:229 rwm"))
	require.NoError(t, err)
	require.NotContains(t, text, "refused")
	text, err = run(container.WithMounts(rootfs.Bind("/dev/full", "/dev/y")), container.WithDevice(node, "/dev/x", "w"))
	require.NoError(t, err)
	require.Contains(t, text, "read refused")
	require.NotContains(t, text, "write refused")
}

// Between the look and the copy somebody may put another device there.
func TestEscapeDeviceSwap(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink("/dev/null", link))
	// What this program looks at after the devices.
	swapped := false
	container.Fault(func(op, path string) error {
		if op == "stat" && strings.HasPrefix(path, "/proc/") && !swapped {
			swapped = true
			other := filepath.Join(dir, "swap")
			return errors.Join(os.Symlink("/dev/zero", other), os.Rename(other, link))
		}
		return nil
	})
	fault := startFault(t, container.WithDevice(link, "/dev/x", ""))
	require.True(t, swapped)
	require.ErrorIs(t, fault, unix.ESTALE)
	require.Equal(t, link, fault.Path)
}

func TestSymlink(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	text := output(t, container.WithFile("/w/f", []byte("here\n"), 0o644), container.WithMounts(rootfs.Tmpfs("/m")),
		container.WithSymlink("f", "/w/rel"), container.WithSymlink("/w/f", "/m/deep/er/abs"), container.WithSymlink("../../../../../../etc/shadow", "/w/up"), container.WithSymlink("nowhere\n", "/odd"),
		sh("cat /w/rel /m/deep/er/abs; readlink /w/up; readlink /odd; stat -c %u /w/rel"))
	require.Equal(t, "here\nhere\n../../../../../../etc/shadow\nnowhere\n\n0\n", text)
	// It must be new, and where the root can be written to; its folder is looked up inside.
	fault := startFault(t, container.WithSymlink("x", "/tmp"))
	require.ErrorIs(t, fault, unix.EEXIST)
	fault = startFault(t, container.WithSymlink("x", "/usr/new"))
	require.ErrorIs(t, fault, unix.EROFS)
	require.Contains(t, fault.Remedy, "written to")
	fault = startFault(t, container.WithSymlink("/etc", "/l"), container.WithSymlink("x", "/l/new"))
	require.ErrorIs(t, fault, unix.EROFS) // the container's own /etc
}

func TestSysfs(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	var out bytes.Buffer
	res, err := container.Run(timeout(t), container.WithMounts(rootfs.Sysfs()), container.WithStdout(&out), container.WithStderr(&out), sh(`
		ls /sys/class/net; ls /sys/firmware /sys/devices/virtual/powercap 2>/dev/null | grep -v : ; mount | grep ' /sys '; echo x 2>&1 >/sys/kernel/new; cat /sys/devices/system/cpu/online`))
	var fault *container.StartError
	if errors.As(err, &fault) {
		// Where the host's own is covered, or is not there, the kernel refuses.
		require.ErrorIs(t, err, unix.EPERM)
		require.Contains(t, fault.Remedy, "/sys")
		return
	}
	require.NoError(t, err)
	require.True(t, res.Success(), out.String())
	require.Regexp(t, `^lo\n\w+ on /sys type sysfs \(ro,nosuid,nodev,noexec`, out.String())
	require.Contains(t, out.String(), "Read-only")
	require.NotContains(t, output(t, sh("ls /")), "sys\n")
}

// An error at each step that devices, links and sysfs add is that step's, and nothing is
// left.
func TestDeviceFailureAtEachStep(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	opts := []container.Option{
		container.WithCommand("/usr/bin/true"), container.WithDevice("/dev/zero", "/dev/x", ""), container.WithDevice("/dev/zero", "/run/x", ""), container.WithSymlink("a", "/tmp/l"),
		container.WithMounts(rootfs.Sysfs()),
	}
	if _, err := container.Run(timeout(t), opts...); err != nil {
		opts = opts[:len(opts)-1] // no sysfs here: TestSysfs
	}
	defer container.Sabotage(nil)
	broke := map[string]bool{}
	for step := 0; ; step++ {
		n, hit := 0, ""
		container.Sabotage(func(p *plan.Plan) {
			for i, s := range p.Steps {
				if !strings.Contains(s.Path, "/x") && !strings.Contains(s.Path, "/l") && !strings.Contains(s.Path, "sys") && s.Path != "/dev/zero" {
					continue
				}
				if n++; n == step+1 {
					hit = s.Op
					p.Steps[i] = broken()
					return
				}
			}
		})
		res, err := container.Run(timeout(t), opts...)
		if hit == "" {
			require.NoError(t, err)
			require.True(t, res.Success())
			break
		}
		var fault *container.StartError
		require.ErrorAs(t, err, &fault, "%d: %s", step+1, hit)
		require.Equal(t, "broken", fault.Op)
		broke[hit] = true
	}
	for _, op := range []string{"open_tree", "statx", "move_mount", "symlinkat", "openat2"} {
		require.Contains(t, broke, op)
	}
}
