package container_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

const printPrivileges = "print privileges"

// What a job is and may become, in the kernel's words.
var _ = register(printPrivileges, func([]string) int {
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return 1
	}
	for _, f := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid"} {
		fmt.Printf("%s:\t%s\n", f, statusField("/proc/self/status", f))
	}
	fmt.Printf("Securebits:\t%#x\n", bits)
	return 0
})

// Sets, flags and bits are what was asked for, of the main job and of Exec's.
func TestPrivileges(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	const none, admin, both = "0000000000000000", "0000000000001000", "0000000000001400" // CAP_NET_BIND_SERVICE is 10, CAP_NET_ADMIN 12
	caps := container.WithCapabilities("net_admin", "CAP_NET_BIND_SERVICE")
	ambient := container.WithAmbientCapabilities
	user := container.WithUser(1000, 1000)
	hosts := []container.Option{container.WithHostNamespace(namespace.User)}
	rows := []struct {
		name  string
		needs []containertest.Feature
		c     []container.Option
		job   []container.JobOption
		sets  [5]string // inheritable, permitted, effective, bounding, ambient
		gains bool
		bits  string
	}{
		{name: "default", sets: [5]string{none, none, none, none, none}},
		{name: "capabilities", job: []container.JobOption{caps}, sets: [5]string{both, both, both, both, both}},
		{name: "one ambient", job: []container.JobOption{caps, ambient("net_admin")}, sets: [5]string{both, both, both, both, admin}},
		{name: "none ambient", job: []container.JobOption{caps, ambient()}, sets: [5]string{both, both, both, both, none}},
		{name: "root is an id like others", job: []container.JobOption{caps, ambient("net_admin"), container.WithSecurebits("noroot", "SECBIT_NOROOT_LOCKED")}, sets: [5]string{both, admin, admin, both, admin}, bits: "0x3"},
		{name: "ambient may not be raised", job: []container.JobOption{caps, container.WithSecurebits("no-cap-ambient-raise")}, sets: [5]string{both, both, both, both, both}, bits: "0x40"},
		{name: "securebits alone", job: []container.JobOption{container.WithSecurebits("keep-caps-locked", "no-setuid-fixup")}, sets: [5]string{none, none, none, none, none}, bits: "0x24"},
		{name: "may gain", job: []container.JobOption{container.WithNoNewPrivileges(false)}, sets: [5]string{none, none, none, none, none}, gains: true},
		{name: "may gain what it has", job: []container.JobOption{container.WithNoNewPrivileges(false), caps, ambient()}, sets: [5]string{both, both, both, both, none}, gains: true},
		{name: "another user", needs: []containertest.Feature{containertest.Users}, job: []container.JobOption{user}, sets: [5]string{none, none, none, none, none}},
		{name: "another user, capabilities", needs: []containertest.Feature{containertest.Users}, job: []container.JobOption{user, caps}, sets: [5]string{both, both, both, both, both}},
		{name: "another user, one ambient", needs: []containertest.Feature{containertest.Users}, job: []container.JobOption{user, caps, ambient("net_admin")}, sets: [5]string{both, admin, admin, both, admin}},
		{name: "another user, may gain", needs: []containertest.Feature{containertest.Users}, job: []container.JobOption{user, caps, ambient(), container.WithNoNewPrivileges(false)}, sets: [5]string{both, none, none, both, none}, gains: true},
		{name: "host's users", needs: []containertest.Feature{containertest.Root}, c: hosts, sets: [5]string{none, none, none, none, none}},
		{name: "host's users, capabilities", needs: []containertest.Feature{containertest.Root}, c: hosts, job: []container.JobOption{caps, ambient("net_admin")}, sets: [5]string{both, both, both, both, admin}},
		{name: "host's users, another user", needs: []containertest.Feature{containertest.Root}, c: hosts, job: []container.JobOption{user, caps, ambient("net_admin"), container.WithSecurebits("noroot")}, sets: [5]string{both, admin, admin, both, admin}, bits: "0x1"},
		{name: "host's users, may gain", needs: []containertest.Feature{containertest.Root}, c: hosts, job: []container.JobOption{container.WithNoNewPrivileges(false)}, sets: [5]string{none, none, none, none, none}, gains: true},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			containertest.Require(t, r.needs...)
			c := start(t, append(r.c, selfMount(t))...)
			asJobOf(t, c, r.c, r.job, func(t *testing.T, got string) {
				t.Helper()
				for i, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
					require.Equal(t, r.sets[i], field(got, set), "%s of\n%s", set, got)
				}
				require.Equal(t, map[bool]string{true: "0", false: "1"}[r.gains], field(got, "NoNewPrivs"))
				require.Equal(t, "2", field(got, "Seccomp"), "no filter")
				require.Equal(t, map[bool]string{true: "0x0", false: r.bits}[r.bits == ""], field(got, "Securebits"))
			})
			require.NoError(t, c.Close())
		})
	}
}

// asJobOf prints a job's privileges as the main job of a container like c, and as one
// of Exec's in c.
func asJobOf(t *testing.T, c *container.Container, like []container.Option, job []container.JobOption, check func(t *testing.T, got string)) {
	t.Helper()
	list := append([]container.Option{self(t, printPrivileges)}, like...)
	for _, o := range job {
		list = append(list, o)
	}
	check(t, output(t, list...))
	var out bytes.Buffer
	p, err := c.Exec(timeout(t), append(job, selfJob(t, printPrivileges), container.WithStdout(&out))...)
	require.NoError(t, err)
	res, err := p.Wait(timeout(t))
	require.NoError(t, err)
	require.NoError(t, res.Err())
	check(t, out.String())
}

// A program that is set-user-ID acts as such only where both the job and the mount
// allow it.
func TestSetUserID(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	containertest.Require(t, containertest.Users)
	for _, suid := range []bool{false, true} {
		mount := rootfs.Tmpfs("/mnt")
		if suid {
			mount = rootfs.Tmpfs("/mnt", rootfs.Suid())
		}
		c := start(t, container.WithMounts(mount), selfMount(t))
		require.Equal(t, 0, execCode(t, c, sh("cp /run/test /mnt/test && chmod 4755 /mnt/test")))
		for _, gains := range []bool{false, true} {
			var out bytes.Buffer
			p, err := c.Exec(timeout(t), selfJob(t, printPrivileges), container.WithCommand("/mnt/test", printPrivileges), container.WithStdout(&out), container.WithUser(1000, 1000),
				container.WithCapabilities("net_admin"), container.WithAmbientCapabilities(), container.WithNoNewPrivileges(!gains))
			require.NoError(t, err)
			res, err := p.Wait(timeout(t))
			require.NoError(t, err)
			require.NoError(t, res.Err())
			euid, permitted := "1000", "0000000000000000"
			if suid && gains {
				euid, permitted = "0", "0000000000001000" // what is in the bounding set, and no more
			}
			require.Equal(t, euid, strings.Fields(field(out.String(), "Uid"))[1], "mount %v, job %v", suid, gains)
			require.Equal(t, permitted, field(out.String(), "CapPrm"), "mount %v, job %v", suid, gains)
		}
		require.NoError(t, c.Close())
	}
}

// What contradicts itself is refused by New.
func TestPrivilegesRefused(t *testing.T) {
	for option, opt := range map[string]container.Option{
		"WithAmbientCapabilities": container.WithAmbientCapabilities("net_admin"),
		"WithSecurebits":          container.WithSecurebits("no-root"),
		"WithLandlock":            container.WithLandlock(),
	} {
		_, err := container.New(opt)
		var e *container.OptionError
		require.ErrorAs(t, err, &e, option)
		require.Equal(t, option, e.Option)
	}
	_, err := container.New(container.WithLandlock(security.AllowRead("usr")))
	require.ErrorContains(t, err, "not an absolute path")
	_, err = container.New(container.WithLandlock(security.AllowConnect(make([]uint16, 300)...)))
	require.ErrorContains(t, err, "at most 256")
}

const nestNamespaces = "make namespaces"

// In a user namespace of its own a job has namespaces of all kinds, and mounts.
var _ = register(nestNamespaces, func([]string) int {
	cmd := exec.Command("/bin/sh", "-c", "hostname nested && mount -t tmpfs none /tmp && hostname")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	fmt.Printf("%s%v\n", out, err)
	return 0
})

// Jobs make no user namespaces, whatever their profile allows, unless they may.
func TestUserNamespaceCreation(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	profiles := map[string]container.JobOption{"default": container.JobOptions(), "unconfined": container.WithSeccomp(security.Unconfined())}
	users := map[string]container.JobOption{"root": container.WithCapabilities("setfcap")}
	if !singleID(t) {
		users["ordinary"] = container.WithUser(1000, 1000)
	}
	for _, may := range []bool{false, true} {
		for name, profile := range profiles {
			for who, user := range users {
				t.Run(fmt.Sprint(name, " ", who, " ", may), func(t *testing.T) {
					opt := container.WithUserNamespaceCreation(may)
					asJob(t, []container.Option{opt}, func(t *testing.T, run func(...container.JobOption) *container.Result) {
						t.Helper()
						var out bytes.Buffer
						require.NoError(t, run(profile, user, selfJob(t, nestNamespaces), container.WithStdout(&out)).Err())
						want := "nested\n<nil>\n"
						switch {
						case !may && name == "default":
							want = "fork/exec /bin/sh: operation not permitted\n"
						case !may:
							want = "fork/exec /bin/sh: no space left on device\n"
						}
						require.Equal(t, want, out.String())
					})
				})
			}
		}
	}
}

// A job of an ordinary user sees its own processes alone in /proc; one in group 0 all.
func TestProcessesOfOthers(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	containertest.Require(t, containertest.Users)
	c := start(t, container.WithCommand("sleep", "1000"), container.WithUser(7, 7))
	names := sh("cat /proc/[0-9]*/comm")
	require.Subset(t, lines(execOutput(t, c, names)), []string{"inlay-init", "sleep"})
	own := lines(execOutput(t, c, names, container.WithUser(1000, 1000)))
	require.NotContains(t, own, "inlay-init")
	require.NotContains(t, own, "sleep")
	require.Contains(t, lines(execOutput(t, c, names, container.WithUser(7, 7))), "sleep")
}
