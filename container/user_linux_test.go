package container_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// whoJob tells who it is.
var whoJob = register("who", func([]string) int {
	groups, err := os.Getgroups()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if len(groups) > 0 && groups[0] == os.Getgid() {
		groups = groups[1:] // the C library's habit
	}
	fmt.Println(os.Getuid(), os.Getgid(), groups, os.Getenv("HOME"))
	return 0
})

const (
	passwdText = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\nbob:x:1002:1002::/home/nobody:\n" +
		"dots:x:1003:0::/home/../home/alice:\nfile:x:1004:0::/etc/passwd:\nlink:x:1005:0::/homes/alice:\nout:x:1006:0::/out:\nodd:x:one:0:::\nhigh:x:4294967295:0:::\nnegative:x:-1:0:::\n" +
		" space:x:1007:0:::\nshort:x:1008:7\nfar:x:70000:0::/:\nalice:x:6666:6666::/:\n"
	groupText = "root:x:0:root\nstaff:x:50:alice,bob\naudio:x:29:alice\nusers:x:100:\nodd:x:zero:\nfar:x:70000:bob\n"
)

// userRoot is a folder with the programs of this machine, and a passwd and group of its own.
func userRoot(t testing.TB, passwd, group string) (string, container.Option) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, d := range []string{"proc", "dev", "tmp", "run", "usr", "etc", "root", "home/alice"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for name, to := range map[string]string{"homes": "/home", "out": "/../../../usr/../out"} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if text != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644))
		}
	}
	for _, name := range []string{"bin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + name); err == nil {
			require.NoError(t, os.Symlink(to, filepath.Join(dir, name)))
		}
	}
	return dir, container.Options(container.WithRoot(rootfs.Dir(dir)), container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly())))
}

func TestUserNames(t *testing.T) {
	containertest.Require(t, containertest.Users)
	containertest.Census(t)
	_, root := userRoot(t, passwdText, groupText)
	for _, tt := range []struct {
		name string
		opt  container.JobOption
		want string
	}{
		{"nobody asked for", container.WithUmask(0), "0 0 [] /tmp"},
		{"a name", container.WithUser("alice"), "1000 1001 [29 50] /home/alice"},
		{"name and group", container.WithUser("alice:users"), "1000 100 [] /home/alice"},
		{"name, group", container.WithUser("alice", "staff"), "1000 50 [] /home/alice"},
		{"name and id", container.WithUser("alice:7"), "1000 7 [] /home/alice"},
		{"id and name", container.WithUser("1000:staff"), "1000 50 [] /home/alice"},
		{"id", container.WithUser("1000"), "1000 1001 [29 50] /home/alice"},
		{"id as a number", container.WithUser(1000), "1000 1001 [29 50] /home/alice"},
		{"id that passwd does not have", container.WithUser(1234), "1234 0 [] /tmp"},
		{"ids", container.WithUser(1000, 5), "1000 5 [] /home/alice"},
		{"ids that passwd does not have", container.WithUser(1234, 5), "1234 5 [] /tmp"},
		{"ids in digits", container.WithUser("01000:005"), "1000 5 [] /home/alice"},
		{"root", container.WithUser("root"), "0 0 [0] /root"},
		{"ids of root", container.WithUser(0, 0), "0 0 [] /root"},
		{"home that is not there", container.WithUser("bob"), "1002 1002 [50] /tmp"},
		{"home with dots", container.WithUser("dots"), "1003 0 [] /tmp"},
		{"home that is a file", container.WithUser("file"), "1004 0 [] /tmp"},
		{"home through a link", container.WithUser("link"), "1005 0 [] /homes/alice"},
		{"home that leads out", container.WithUser("out"), "1006 0 [] /tmp"},
		{"short line", container.WithUser("short"), "1008 7 [] /tmp"},
		{"HOME of one's own", container.JobOptions(container.WithUser("alice"), container.WithEnv("HOME=/x")), "1000 1001 [29 50] /x"},
		{"groups by name", container.WithGroups("staff", "5", "users"), "0 0 [5 50 100] /tmp"},
		{"groups besides", container.JobOptions(container.WithUser("alice:users"), container.WithGroups("audio"), container.WithGroups(3, 29)), "1000 100 [3 29] /home/alice"},
		{"the later wins", container.JobOptions(container.WithUser("alice"), container.WithUser(5, 6)), "5 6 [] /tmp"},
		{"the later name wins", container.JobOptions(container.WithUser(5, 6), container.WithUser("alice:users")), "1000 100 [] /home/alice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := strings.Replace(tt.want, "[0]", "[]", 1) // root is in its own group: see whoJob
			require.Equal(t, want+"\n", output(t, root, self(t, whoJob), tt.opt))
			c := start(t, root, selfMount(t))
			require.Equal(t, want+"\n", execOutput(t, c, selfJob(t, whoJob), tt.opt))
		})
	}
	// In a user namespace that maps fewer ids, groups that nobody asked for are left out.
	c := start(t, root, selfMount(t))
	require.Equal(t, "1002 1002 [50] /tmp\n", execOutput(t, c, selfJob(t, whoJob), container.WithUser("bob")))
	require.Len(t, c.Dropped(), 1+droppedAlready(t))
	require.Equal(t, "WithUser", c.Dropped()[len(c.Dropped())-1].Option)
}

// droppedAlready is how much this host lacks for a container that asks for nothing.
func droppedAlready(t *testing.T) int {
	t.Helper()
	return len(start(t).Dropped())
}

// One id alone, as root of the container: names work, and what is not mapped is refused.
func TestUserNamesRoot(t *testing.T) {
	needContainers(t)
	_, root := userRoot(t, "", "")
	require.Equal(t, "0 0 [] /tmp\n", output(t, root, self(t, whoJob), container.WithUser("0")))
	dir, root := userRoot(t, "me:x:0:0:me:/root:/bin/sh\n", "")
	require.Equal(t, "0 0 [] /root\n", output(t, root, self(t, whoJob), container.WithUser("me")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/group"), []byte("mine:x:0:\n"), 0o644))
	require.Equal(t, "0 0 [] /root\n", output(t, root, self(t, whoJob), container.WithUser("me:mine")))

	// The default root is known, without asking anybody.
	require.Equal(t, "0 0 [] /tmp\n", output(t, self(t, whoJob), container.WithUser("root")))
	_, err := container.Run(timeout(t), container.WithCommand("true"), container.WithUser("alice"))
	var e *container.StartError
	require.ErrorAs(t, err, &e)
	require.EqualError(t, err, `inlay: prepare: WithUser /etc/passwd: no user "alice" (the container's own file is looked into, not the host's: give an id, or a root that has the name)`)
	c := start(t, selfMount(t))
	require.Equal(t, "0 0 [] /tmp\n", execOutput(t, c, selfJob(t, whoJob), container.WithUser("root:root")))
	_, err = c.Exec(timeout(t), container.WithCommand("true"), container.WithUser("alice"))
	require.ErrorAs(t, err, &e)

	// Unless something is mounted there.
	bound := filepath.Join(t.TempDir(), "passwd")
	require.NoError(t, os.WriteFile(bound, []byte("alice:x:0:0::/usr:\n"), 0o644))
	require.NoError(t, os.Chmod(filepath.Dir(bound), 0o755))
	require.Equal(t, "0 0 [] /usr\n", output(t, self(t, whoJob), container.WithMounts(rootfs.Bind(bound, "/etc/passwd", rootfs.ReadOnly())), container.WithUser("alice")))
}

func TestUserNamesRefused(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	_, root := userRoot(t, passwdText, groupText)
	_, none := userRoot(t, "", "")
	for _, tt := range []struct {
		name string
		root container.Option
		opt  container.JobOption
		path string
		text string
	}{
		{"unknown user", root, container.WithUser("carol"), "/etc/passwd", `no user "carol"`},
		{"unknown group", root, container.WithUser("alice:nogroup"), "/etc/group", `no group "nogroup"`},
		{"unknown supplementary group", root, container.WithGroups("nogroup"), "/etc/group", `no group "nogroup"`},
		{"id that is no number", root, container.WithUser("odd"), "/etc/passwd", `no user "odd"`},
		{"group whose id is no number", root, container.WithUser("0:odd"), "/etc/group", `no group "odd"`},
		{"id that is none", root, container.WithUser("high"), "/etc/passwd", `no user "high"`},
		{"id below zero", root, container.WithUser("negative"), "/etc/passwd", `no user "negative"`},
		{"name after a space", root, container.WithUser("space"), "/etc/passwd", `no user "space"`},
		{"no passwd", none, container.WithUser("root"), "/etc/passwd", `no user "root"`},
		{"no group", none, container.WithUser("0:root"), "/etc/group", `no group "root"`},
		{"not mapped", root, container.WithUser("far"), "user 70000", "not mapped"},
		{"group that is not mapped", root, container.WithGroups("far"), "group 70000", "not mapped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := container.Run(timeout(t), tt.root, container.WithCommand("true"), tt.opt)
			var e *container.StartError
			require.ErrorAs(t, err, &e)
			require.Equal(t, "WithUser", e.Op)
			require.Equal(t, tt.path, e.Path)
			require.ErrorContains(t, err, tt.text)
			require.NotEmpty(t, e.Remedy)
		})
	}
	_, err := container.Run(timeout(t), root, container.WithFile("/usr/x", nil, 0o600), container.WithCommand("true"), container.WithUser("alice"))
	var e *container.StartError
	require.ErrorAs(t, err, &e)
	require.Equal(t, container.PhaseChild, e.Phase) // before anybody was looked up
}

// Whatever a root has in the place of passwd and group: an error, in time, and no word of
// the host's files.
func TestUserNamesHostile(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	line := "me:x:0:0::/usr:\n"
	mkdir := func(p string) error { return os.Mkdir(p, 0o755) }
	write := func(text string) func(string) error {
		return func(p string) error { return os.WriteFile(p, []byte(text), 0o644) }
	}
	link := func(to string) func(string) error {
		return func(p string) error { return os.Symlink(to, p) }
	}
	for _, tt := range []struct {
		name string
		make func(path string) error
		text string // of the error; empty: it works
	}{
		{"FIFO", func(p string) error { return unix.Mkfifo(p, 0o666) }, "neither a regular file"},
		{"socket", func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) }, "neither a regular file"},
		{"folder", mkdir, "is a directory"},
		{"link to a device", link("/dev/zero"), "neither a regular file"},
		{"link to a terminal", link("/dev/ptmx"), "neither a regular file"},
		{"link to itself", link("passwd"), "too many levels"},
		{"link to nowhere", link("/nowhere"), "no user"},
		{"link to the host's", link("../../../../../../../../etc/passwd"), "too many levels"},
		{"link through a magic link", link("/proc/1/root/etc/passwd"), ""},
		{"link through init's files", link("/proc/1/fd/3"), ""},
		{"1 MiB and a byte", write(line + strings.Repeat("#", 1<<20-len(line)) + "\n"), "more than 1048576 bytes"},
		{"sparse", func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if err == nil {
				_, err = f.Seek(1<<40, io.SeekStart)
			}
			if err == nil {
				_, err = f.WriteString(line)
			}
			if err == nil {
				err = f.Close()
			}
			return err
		}, "more than 1048576 bytes"},
		{"a line of 1 MiB", write(strings.Repeat("x", 1<<20-len(line)-1) + "\n" + line), ""},
		{"a line of 1 MiB that looks like one", write("x:x:5:5:" + strings.Repeat("x", 1<<19) + "\n" + line), "token too long"},
		{"NULs before", write(strings.Repeat("\x00", 5000) + line), "no user"},
		{"NUL in the line", write("me:x:0\x00:0::/usr:\n"), "no user"},
		{"NUL in another line", write("x\x00:x:0:0:::\n" + line), ""},
		{"no newline at the end", write(strings.TrimSuffix(line, "\n")), ""},
		{"colons alone", write(strings.Repeat(":", 60000) + "\n" + line), ""},
		{"invalid UTF-8", write("\xff\xfe:x:1:1:\xff::\n" + line), ""},
		{"control characters in HOME", write("me:x:0:0::/usr/\x1b[31m:\n"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, root := userRoot(t, "", "")
			require.NoError(t, tt.make(filepath.Join(dir, "etc/passwd")))
			opts := []container.Option{root, self(t, whoJob), container.WithUser("me")}
			switch {
			case strings.HasPrefix(tt.name, "link through"):
				_, err := container.Run(timeout(t), opts...)
				var e *container.StartError
				require.ErrorAs(t, err, &e)
				require.Equal(t, "/etc/passwd", e.Path)
			case tt.text != "":
				_, err := container.Run(timeout(t), opts...)
				var e *container.StartError
				require.ErrorAs(t, err, &e)
				require.Equal(t, "/etc/passwd", e.Path)
				require.ErrorContains(t, err, tt.text)
			default:
				require.True(t, strings.HasPrefix(output(t, opts...), "0 0 [] /"))
			}
			// For HOME alone it is no reason to fail.
			require.True(t, strings.HasPrefix(output(t, root, self(t, whoJob), container.WithUser(0, 0)), "0 0 [] /"))
		})
	}
}

// A passwd that is swapped while it is looked into: with a link to the host's, a FIFO, a
// device, a folder. A name that only the host has is never found, and nobody hangs.
func TestEscapeUserSwaps(t *testing.T) {
	needContainers(t)
	containertest.Census(t)
	// What is outside of the root, beside it.
	outside := t.TempDir()
	require.NoError(t, os.Chmod(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "passwd"), []byte("outsider:x:0:0:::\ninsider:x:0:0::/outside:\n"), 0o644))
	dir, root := userRoot(t, "insider:x:0:0::/usr:\n", "")
	etc := filepath.Join(dir, "etc")
	rounds := often(1000)
	if testing.Short() {
		rounds = 50
	}
	up := strings.Repeat("../", 20)
	others := []func(string) error{
		func(p string) error { return os.Symlink(up+outside[1:]+"/passwd", p) },
		func(p string) error { return os.Symlink(outside+"/passwd", p) },
		func(p string) error { return unix.Mkfifo(p, 0o666) },
		func(p string) error { return os.Mkdir(p, 0o755) },
		func(p string) error { return os.Symlink("/dev/zero", p) },
		func(p string) error { return os.WriteFile(p, []byte("insider:x:0:0::/usr:\n"), 0o644) },
	}
	for i, make := range others {
		require.NoError(t, make(filepath.Join(etc, fmt.Sprint(i))))
	}
	// Nothing is waited for: each exchange is one call.
	var stop atomic.Bool
	swaps := int64(0)
	done := make(chan error, 1)
	go func() {
		for i := 0; !stop.Load(); i++ {
			if err := unix.Renameat2(unix.AT_FDCWD, etc+"/passwd", unix.AT_FDCWD, fmt.Sprintf("%s/%d", etc, i%len(others)), unix.RENAME_EXCHANGE); err != nil {
				done <- err
				return
			}
			atomic.AddInt64(&swaps, 1)
		}
		done <- nil
	}()
	c := start(t, root, selfMount(t))
	found := 0
	for i := range rounds {
		p, err := c.Exec(timeout(t), container.WithCommand("/nowhere"), container.WithUser("outsider"))
		require.Error(t, err, "%v", p)
		var e *container.StartError
		require.ErrorAs(t, err, &e)
		require.Equal(t, "/etc/passwd", e.Path)
		if i%10 > 0 {
			continue
		}
		var out bytes.Buffer
		p, err = c.Exec(timeout(t), selfJob(t, whoJob), container.WithUser("insider"), container.WithStdout(&out))
		if err != nil {
			require.ErrorAs(t, err, &e)
			continue
		}
		_, err = p.Wait(timeout(t))
		require.NoError(t, err)
		require.Equal(t, "0 0 [] /usr\n", out.String())
		found++
	}
	stop.Store(true)
	require.NoError(t, <-done)
	require.Greater(t, atomic.LoadInt64(&swaps), int64(rounds))
	t.Logf("%d swaps, %d of the insider's jobs started", swaps, found)
}

// What is not looked up yet has a placeholder.
func TestUserNamesExplained(t *testing.T) {
	needContainers(t)
	_, root := userRoot(t, passwdText, groupText)
	c, err := container.New(root, container.WithCommand("true"), container.WithUser("alice"), container.WithGroups("staff", "7"))
	require.NoError(t, err)
	var before bytes.Buffer
	require.NoError(t, c.Explain(&before))
	require.Contains(t, before.String(), "setresuid(<alice>, <alice>, <alice>)")
	require.Contains(t, before.String(), "setresgid(<group of alice>, <group of alice>, <group of alice>)")
	require.Contains(t, before.String(), "setgroups(2, [7, <staff>])")
	require.NoError(t, c.Close())
	containertest.Require(t, containertest.Users)
	c = start(t, root, self(t, whoJob), container.WithUser("alice:users"), container.WithGroups("staff", "7"))
	var after bytes.Buffer
	require.NoError(t, c.Explain(&after))
	require.Contains(t, after.String(), "setresuid(1000, 1000, 1000)")
	require.Contains(t, after.String(), "setgroups(2, [7, 50])")
	require.Equal(t, "alice:users", c.Spec().Job.User) // what was asked for
}
