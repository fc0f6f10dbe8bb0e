package container_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

func manyLabels(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[strings.Repeat("k", i+1)] = ""
	}
	return m
}

// Each is refused by New, naming the option, and what is wrong with it.
func TestNewRefuses(t *testing.T) {
	long := strings.Repeat("x", 300)
	maps := []namespace.IDMap{{ContainerID: 0, HostID: 1000, Size: 10}}
	other, err := container.New(container.WithID("other"))
	require.NoError(t, err)
	for _, tt := range []struct {
		name   string
		opts   []container.Option
		option string
		reason string // a part of it
	}{
		{"empty command", []container.Option{container.WithCommand("")}, "WithCommand", "empty name"},
		{"NUL in command", []container.Option{container.WithCommand("a\x00b")}, "WithCommand", "NUL"},
		{"NUL in argument", []container.Option{container.WithCommand("a", "b\x00")}, "WithCommand (argument 1)", "NUL"},
		{"an argument of 128 KiB", []container.Option{container.WithCommand("a", strings.Repeat("x", 128<<10))}, "WithCommand (argument 1)", "the kernel takes 131071"},
		{"3 MiB of arguments", []container.Option{container.WithCommand("a", strings.Split(strings.Repeat(strings.Repeat("x", 1023)+" ", 3<<10), " ")...)}, "WithCommand", "the kernel takes 2097152"},
		{"3 MiB of environment", []container.Option{container.WithCommand("a"), container.WithEnv(strings.Split(strings.Repeat("K="+strings.Repeat("x", 1021)+" ", 3<<10), " ")[:3<<10]...)}, "WithEnv", "the kernel takes 2097152"},
		{"variable without =", []container.Option{container.WithEnv("HOME")}, "WithEnv", "KEY=value"},
		{"variable without key", []container.Option{container.WithEnv("=x")}, "WithEnv", "KEY=value"},
		{"NUL in variable", []container.Option{container.WithEnv("A=\x00")}, "WithEnv", "NUL"},
		{"relative folder", []container.Option{container.WithDir("tmp")}, "WithDir", "relative"},
		{"folder with ..", []container.Option{container.WithDir("/tmp/../etc")}, "WithDir", `".."`},
		{"empty folder", []container.Option{container.WithDir("")}, "WithDir", "empty"},
		{"NUL in folder", []container.Option{container.WithDir("/\x00")}, "WithDir", "NUL"},
		{"no user", []container.Option{container.WithUser(math.MaxUint32, 0)}, "WithUser", "not an id"},
		{"no group", []container.Option{container.WithUser(0, math.MaxUint32)}, "WithUser", "not an id"},
		{"no supplementary group", []container.Option{container.WithGroups(math.MaxUint32)}, "WithGroups", "not an id"},
		{"empty user", []container.Option{container.WithUser("")}, "WithUser", "empty name"},
		{"empty group", []container.Option{container.WithUser("alice:")}, "WithUser", "empty name"},
		{"group alone", []container.Option{container.WithUser(":staff")}, "WithUser", "empty name"},
		{"user, group and more", []container.Option{container.WithUser("a:b:c")}, "WithUser", "a colon"},
		{"user with a newline", []container.Option{container.WithUser("a\nb")}, "WithUser", "a control character"},
		{"user with a NUL", []container.Option{container.WithUser("a\x00")}, "WithUser", "a control character"},
		{"user of 257 bytes", []container.Option{container.WithUser(long[:257])}, "WithUser", "at most 256"},
		{"user below zero", []container.Option{container.WithUser(-1, 0)}, "WithUser", "not an id"},
		{"user below zero alone", []container.Option{container.WithUser(-1)}, "WithUser", "not an id"},
		{"group below zero", []container.Option{container.WithUser(0, -1)}, "WithUser", "not an id"},
		{"user of 20 digits", []container.Option{container.WithUser("99999999999999999999")}, "WithUser", "not an id"},
		{"group name with a colon", []container.Option{container.WithGroups("a:b")}, "WithGroups", "a colon"},
		{"empty group name", []container.Option{container.WithGroups("")}, "WithGroups", "empty name"},
		{"supplementary group below zero", []container.Option{container.WithGroups(-5)}, "WithGroups", "not an id"},
		{"terminal of -1 rows", []container.Option{container.WithCommand("a"), container.WithTerminal(-1, 0)}, "WithTerminal", "0 to 65535"},
		{"terminal of 65536 columns", []container.Option{container.WithCommand("a"), container.WithTerminal(0, 65536)}, "WithTerminal", "0 to 65535"},
		{"terminal and stderr", []container.Option{container.WithCommand("a"), container.WithTerminal(0, 0), container.WithStderr(io.Discard)}, "WithTerminal", "WithStderr"},
		{"terminal and another stderr", []container.Option{container.WithCommand("a"), container.WithTerminal(0, 0), container.WithStdout(io.Discard), container.WithStderr(&bytes.Buffer{})}, "WithTerminal", "WithStderr"},
		{"terminal, a limit and nobody who counts", []container.Option{container.WithCommand("a"), container.WithTerminal(0, 0), container.WithOutputLimit(1)}, "WithTerminal", "WithOutputLimit"},
		{"terminal without a command", []container.Option{container.WithTerminal(0, 0)}, "WithTerminal", "no command"},
		{"umask", []container.Option{container.WithUmask(0o1000)}, "WithUmask", "above 0777"},
		{"unknown rlimit", []container.Option{container.WithRlimit("files", 1, 1)}, "WithRlimit", "does not exist"},
		{"soft above hard", []container.Option{container.WithRlimit("nofile", 2, 1)}, "WithRlimit", "above the hard limit"},
		{"unknown capability", []container.Option{container.WithCapabilities("CAP_ROOT")}, "WithCapabilities", "does not exist"},
		{"ptrace without a user namespace", []container.Option{container.WithHostNamespace(namespace.User), container.WithCapabilities("sys_ptrace")}, "WithCapabilities", "take init over"},
		{"nil extra file", []container.Option{container.WithCommand("a"), container.WithExtraFiles(nil)}, "WithExtraFiles", "no file"},
		{"too many extra files", []container.Option{container.WithCommand("a"), container.WithExtraFiles(make([]*os.File, 1001)...)}, "WithExtraFiles", "at most 1000"},
		{"stdin without a command", []container.Option{container.WithStdin(strings.NewReader(""))}, "WithStdin", "no command"},
		{"time limit of zero", []container.Option{container.WithTimeLimit(0)}, "WithTimeLimit", "not above zero"},
		{"time limit below zero", []container.Option{container.WithTimeLimit(-time.Second)}, "WithTimeLimit", "not above zero"},
		{"CPU time limit of zero", []container.Option{container.WithCPUTimeLimit(0)}, "WithCPUTimeLimit", "not above zero"},
		{"idle limit of zero", []container.Option{container.WithIdleLimit(0)}, "WithIdleLimit", "not above zero"},
		{"output limit of -1", []container.Option{container.WithOutputLimit(-1)}, "WithOutputLimit", "below zero"},
		{"memory limit of -1", []container.Option{container.WithMemoryLimit(-1)}, "WithMemoryLimit", "below 1048576 bytes"},
		{"memory limit of zero", []container.Option{container.WithMemoryLimit(0)}, "WithMemoryLimit", "below 1048576 bytes"},
		{"memory limit one under the least", []container.Option{container.WithMemoryLimit(container.MiB - 1)}, "WithMemoryLimit", "below 1048576 bytes"},
		{"swap of -1", []container.Option{container.WithSwapLimit(-1)}, "WithSwapLimit", "below zero"},
		{"no CPU", []container.Option{container.WithCPULimit(0)}, "WithCPULimit", "between 0.01"},
		{"NaN CPUs", []container.Option{container.WithCPULimit(math.NaN())}, "WithCPULimit", "between 0.01"},
		{"infinite CPUs", []container.Option{container.WithCPULimit(math.Inf(1))}, "WithCPULimit", "between 0.01"},
		{"CPU weight of zero", []container.Option{container.WithCPUWeight(0)}, "WithCPUWeight", "between 1"},
		{"CPU set", []container.Option{container.WithCPUSet("0-")}, "WithCPUSet", "not a list"},
		{"CPU set backwards", []container.Option{container.WithCPUSet("3-1")}, "WithCPUSet", "not a list"},
		{"no pids", []container.Option{container.WithPidsLimit(0)}, "WithPidsLimit", "below 1"},
		{"I/O without a device", []container.Option{container.WithIOLimit(cgroup.IOLimit{ReadBPS: 1})}, "WithIOLimit", "device"},
		{"I/O without a limit", []container.Option{container.WithIOLimit(cgroup.IOLimit{Device: "8:0"})}, "WithIOLimit", "no limit"},
		{"I/O below zero", []container.Option{container.WithIOLimit(cgroup.IOLimit{Device: "8:0", ReadBPS: -1})}, "WithIOLimit", "below zero"},
		{"I/O weight", []container.Option{container.WithIOWeight(10001)}, "WithIOWeight", "between 1"},
		{"device rule", []container.Option{container.WithDeviceRules("x 1:3 r")}, "WithDeviceRules", "is not like"},
		{"raw cgroup file", []container.Option{container.WithResources(cgroup.Limits{Unified: map[string]string{"../x": "1"}})}, "WithResources", "not the name"},
		{"cgroup parent", []container.Option{container.WithCgroupParent("a/b")}, "WithCgroupParent", "not a clean absolute path"},
		{"cgroup parent with ..", []container.Option{container.WithCgroupParent("/a/../b")}, "WithCgroupParent", "not a clean absolute path"},
		{"unknown namespace", []container.Option{container.WithNamespaces("disk")}, "WithNamespaces", "no such kind"},
		{"unknown host namespace", []container.Option{container.WithHostNamespace("disk")}, "WithHostNamespace", "no such kind"},
		{"host's mounts", []container.Option{container.WithHostNamespace(namespace.Mount)}, "WithHostNamespace", "no root of its own"},
		{"new and host's", []container.Option{container.WithNamespaces(namespace.IPC), container.WithHostNamespace(namespace.IPC)}, "WithHostNamespace", "WithNamespaces names the same kind"},
		{"join a relative path", []container.Option{container.WithJoinNamespace(namespace.Network, "net")}, "WithJoinNamespace", "not an absolute path"},
		{"join nothing", []container.Option{container.WithJoinNamespaceFile(namespace.Network, nil)}, "WithJoinNamespaceFile", "no file"},
		{"join and host's", []container.Option{container.WithJoinNamespace(namespace.Network, "/x"), container.WithHostNamespace(namespace.Network)}, "WithJoinNamespace", "the same kind"},
		{"namespace of nobody", []container.Option{container.WithNamespaceOf(nil, namespace.PID)}, "WithNamespaceOf", "a container"},
		{"join a kind that is none", []container.Option{container.WithJoinNamespace("disk", "/x")}, "WithJoinNamespace", "no such kind"},
		{"join by the file's name", []container.Option{container.WithJoinNamespace("net", "/x")}, "WithJoinNamespace", "no such kind"},
		{"join no kind", []container.Option{container.WithJoinNamespace("", "/x")}, "WithJoinNamespace", "no such kind"},
		{"join mounts", []container.Option{container.WithJoinNamespace(namespace.Mount, "/proc/1/ns/mnt")}, "WithJoinNamespace", "of its own"},
		{"join mounts by file", []container.Option{container.WithJoinNamespaceFile(namespace.Mount, os.Stdin)}, "WithJoinNamespaceFile", "of its own"},
		{"join a cgroup namespace", []container.Option{container.WithJoinNamespace(namespace.Cgroup, "/proc/1/ns/cgroup")}, "WithJoinNamespace", "WithHostNamespace shows"},
		{"mounts of another", []container.Option{container.WithNamespaceOf(other, namespace.Mount)}, "WithNamespaceOf", "of its own"},
		{"cgroup namespace of another", []container.Option{container.WithNamespaceOf(other, namespace.Network, namespace.Cgroup)}, "WithNamespaceOf", "WithHostNamespace shows"},
		{"no kind of another", []container.Option{container.WithNamespaceOf(other)}, "WithNamespaceOf", "at least one kind"},
		{"a kind of another that is none", []container.Option{container.WithNamespaceOf(other, "disk")}, "WithNamespaceOf", "no such kind"},
		{"a kind of another twice", []container.Option{container.WithNamespaceOf(other, namespace.IPC, namespace.IPC)}, "WithNamespaceOf", "joined twice"},
		{"a kind of another and by path", []container.Option{container.WithNamespaceOf(other, namespace.IPC), container.WithJoinNamespace(namespace.IPC, "/x")}, "WithJoinNamespace", "joined twice"},
		{"a kind by path and by file", []container.Option{container.WithJoinNamespace(namespace.UTS, "/x"), container.WithJoinNamespaceFile(namespace.UTS, os.Stdin)}, "WithJoinNamespaceFile", "joined twice"},
		{"join an empty path", []container.Option{container.WithJoinNamespace(namespace.Network, "")}, "WithJoinNamespace", "no path"},
		{"join a path with a NUL", []container.Option{container.WithJoinNamespace(namespace.Network, "/x\x00y")}, "WithJoinNamespace", "NUL"},
		{"join a long path", []container.Option{container.WithJoinNamespace(namespace.Network, "/"+strings.Repeat("x/", 2048))}, "WithJoinNamespace", "longer than the kernel"},
		{"join and new", []container.Option{container.WithJoinNamespace(namespace.IPC, "/x"), container.WithNamespaces(namespace.IPC)}, "WithJoinNamespace", "as new"},
		{"of another and new", []container.Option{container.WithNamespaceOf(other, namespace.PID), container.WithNamespaces(namespace.PID)}, "WithNamespaceOf", "as new"},
		{"by file and the host's", []container.Option{container.WithJoinNamespaceFile(namespace.IPC, os.Stdin), container.WithHostNamespace(namespace.IPC)}, "WithJoinNamespaceFile", "the same kind"},
		{"of another and the host's", []container.Option{container.WithNamespaceOf(other, namespace.User), container.WithHostNamespace(namespace.User)}, "WithNamespaceOf", "the same kind"},
		{"hostname of a joined one", []container.Option{container.WithJoinNamespace(namespace.UTS, "/x"), container.WithHostname("h")}, "WithHostname", `WithJoinNamespace(uts, "/x")`},
		{"hostname of another", []container.Option{container.WithNamespaceOf(other, namespace.UTS), container.WithHostname("h")}, "WithHostname", "WithNamespaceOf(other, uts)"},
		{"hostname of a file", []container.Option{container.WithJoinNamespaceFile(namespace.UTS, os.Stdin), container.WithHostname("h")}, "WithHostname", "WithJoinNamespaceFile(uts)"},
		{"hostname with namespaces that leave it out", []container.Option{container.WithNamespaces(namespace.PID), container.WithHostname("h")}, "WithHostname", "(WithNamespaces)"},
		{"domain name of a joined one", []container.Option{container.WithJoinNamespace(namespace.UTS, "/x"), container.WithDomainname("h")}, "WithDomainname", "WithJoinNamespace"},
		{"sysctl of a joined network", []container.Option{container.WithJoinNamespace(namespace.Network, "/x"), container.WithSysctl("net.x", "1")}, "WithSysctl", "WithJoinNamespace(network"},
		{"sysctl of joined IPC", []container.Option{container.WithNamespaceOf(other, namespace.IPC), container.WithSysctl("kernel.shmmax", "1")}, "WithSysctl", "WithNamespaceOf(other, ipc)"},
		{"sysctl of a joined user namespace", []container.Option{container.WithNamespaceOf(other, namespace.User), container.WithSysctl("user.max_pid_namespaces", "1")}, "WithSysctl", "WithNamespaceOf(other, user)"},
		{"ids of a joined user namespace", []container.Option{container.WithNamespaceOf(other, namespace.User), container.WithIDMaps(maps, maps)}, "WithIDMaps", "WithNamespaceOf(other, user) leaves no user namespace"},
		{"offsets of a joined clock", []container.Option{container.WithNamespaceOf(other, namespace.Time), container.WithTimeOffsets(namespace.TimeOffsets{})}, "WithTimeOffsets", "whose clocks are set"},
		{"offsets of the host's clock", []container.Option{container.WithHostNamespace(namespace.Time), container.WithTimeOffsets(namespace.TimeOffsets{})}, "WithTimeOffsets", "WithHostNamespace(time)"},
		{"an offset of 200 years", []container.Option{container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: 200 * 365 * 24 * time.Hour})}, "WithTimeOffsets", "more than the kernel's"},
		{"an offset of -200 years", []container.Option{container.WithTimeOffsets(namespace.TimeOffsets{Boottime: -200 * 365 * 24 * time.Hour})}, "WithTimeOffsets", "more than the kernel's"},
		{"the largest offset", []container.Option{container.WithTimeOffsets(namespace.TimeOffsets{Boottime: math.MaxInt64})}, "WithTimeOffsets", "more than the kernel's"},
		{"the least offset", []container.Option{container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: math.MinInt64})}, "WithTimeOffsets", "more than the kernel's"},
		{"sysctl as a path", []container.Option{container.WithSysctl("net/ipv4", "1")}, "WithSysctl", "not a name with dots"},
		{"sysctl of two lines", []container.Option{container.WithSysctl("net.x", "1\n2")}, "WithSysctl", "more than one line"},
		{"sysctl of the machine", []container.Option{container.WithSysctl("vm.overcommit_memory", "1")}, "WithSysctl", "the whole machine's"},
		{"sysctl with an empty part", []container.Option{container.WithSysctl("net..x", "1")}, "WithSysctl", "not a name with dots"},
		{"sysctl that climbs", []container.Option{container.WithSysctl("net/../kernel.core_pattern", "1")}, "WithSysctl", "not a name with dots"},
		{"sysctl of the host's network", []container.Option{container.WithSysctl("net.x", "1"), container.WithHostNamespace(namespace.Network)}, "WithSysctl", "does not have new"},
		{"sysctl of the hostname", []container.Option{container.WithSysctl("kernel.hostname", "x")}, "WithSysctl", "use WithHostname"},
		{"sysctl of user namespaces", []container.Option{container.WithSysctl("user.max_user_namespaces", "1")}, "WithSysctl", "use WithUserNamespaceCreation"},
		{"newline in domain name", []container.Option{container.WithDomainname("a\nb")}, "WithDomainname", `character '\n'`},
		{"domain name of the host's", []container.Option{container.WithDomainname("a"), container.WithHostNamespace(namespace.UTS)}, "WithDomainname", "UTS namespace"},
		{"no id maps", []container.Option{container.WithIDMaps(nil, nil)}, "WithIDMaps", "no id is mapped"},
		{"empty id map", []container.Option{container.WithIDMaps([]namespace.IDMap{{}}, maps)}, "WithIDMaps", "is empty"},
		{"id maps that overlap", []container.Option{container.WithIDMaps(append(maps, maps...), maps)}, "WithIDMaps", "overlap"},
		{"id maps above the last id", []container.Option{container.WithIDMaps([]namespace.IDMap{{HostID: math.MaxUint32 - 1, Size: 5}}, maps)}, "WithIDMaps", "above the last id"},
		{"id maps without the job", []container.Option{container.WithIDMaps(maps, maps), container.WithUser(10, 0)}, "WithIDMaps", "not mapped"},
		{"id maps without a namespace", []container.Option{container.WithIDMaps(maps, maps), container.WithHostNamespace(namespace.User)}, "WithIDMaps", "no user namespace"},
		{"empty hostname", []container.Option{container.WithHostname("")}, "WithHostname", "empty"},
		{"newline in hostname", []container.Option{container.WithHostname("a\nb")}, "WithHostname", `character '\n'`},
		{"long hostname", []container.Option{container.WithHostname(long)}, "WithHostname", "at most 64"},
		{"hostname with a dash at its end", []container.Option{container.WithHostname("a-")}, "WithHostname", "at an end"},
		{"hostname of the host", []container.Option{container.WithHostname("a"), container.WithHostNamespace(namespace.UTS)}, "WithHostname", "the UTS namespace is not new (WithHostNamespace(uts))"},
		{"newline in id", []container.Option{container.WithID("a\nb")}, "WithID", `character '\n'`},
		{"empty id", []container.Option{container.WithID("")}, "WithID", "empty"},
		{"id with a slash", []container.Option{container.WithID("a/b")}, "WithID", `character '/'`},
		{"id that is ..", []container.Option{container.WithID("..")}, "WithID", `character '.'`},
		{"newline in label", []container.Option{container.WithLabel("a", "b\n")}, "WithLabel", "newline"},
		{"label that is not UTF-8", []container.Option{container.WithLabel("a", "\xff")}, "WithLabel", "not UTF-8"},
		{"long key of a label", []container.Option{container.WithLabel(long, "b")}, "WithLabel", "at most 128 and 4096"},
		{"long label", []container.Option{container.WithLabels(map[string]string{"a": strings.Repeat("x", 4097)})}, "WithLabel", "at most 128 and 4096"},
		{"too many labels", []container.Option{container.WithLabels(manyLabels(65))}, "WithLabel", "at most 64"},
		{"empty label", []container.Option{container.WithLabel("", "b")}, "WithLabel", "empty key"},
		{"relative state folder", []container.Option{container.WithStateDir("x")}, "WithStateDir", "not an absolute path"},
		{"no root", []container.Option{container.WithRoot(rootfs.Root{})}, "WithRoot", "use rootfs.Host, Dir, Overlay, Empty, FS or Tar"},
		{"root with ..", []container.Option{container.WithRoot(rootfs.Dir("/srv/../etc"))}, "WithRoot", `".."`},
		{"relative root", []container.Option{container.WithRoot(rootfs.Dir("srv"))}, "WithRoot", "relative"},
		{"NUL in root", []container.Option{container.WithRoot(rootfs.Dir("/\x00"))}, "WithRoot", "NUL"},
		{"writable host", []container.Option{container.WithRoot(rootfs.Host(rootfs.Writable()))}, "WithRoot", "never writable"},
		{"etc with a slash", []container.Option{container.WithRoot(rootfs.Host(rootfs.Etc("ssl/certs")))}, "WithRoot", "single name"},
		{"etc of a folder", []container.Option{container.WithRoot(rootfs.Dir("/x", rootfs.Etc("a")))}, "WithRoot", "is for rootfs.Host"},
		{"mount on /", []container.Option{container.WithMounts(rootfs.Tmpfs("/"))}, "WithMounts", "set by WithRoot"},
		{"mount on a relative path", []container.Option{container.WithMounts(rootfs.Tmpfs("tmp"))}, "WithMounts", "relative"},
		{"bind of a relative path", []container.Option{container.WithMounts(rootfs.Bind("x", "/x"))}, "WithMounts", "source"},
		{"bind with ..", []container.Option{container.WithMounts(rootfs.Bind("/a/..", "/x"))}, "WithMounts", `".."`},
		{"bind with a mode", []container.Option{container.WithMounts(rootfs.Bind("/a", "/x", rootfs.Mode(0o700)))}, "WithMounts", "not for a bind"},
		{"bind of -1 bytes", []container.Option{container.WithMounts(rootfs.Bind("/a", "/x", rootfs.Size(-1)))}, "WithMounts", "at least 1 byte"},
		{"bind of -1 inodes", []container.Option{container.WithMounts(rootfs.Bind("/a", "/x", rootfs.Inodes(-1)))}, "WithMounts", "at least 1"},
		{"read-only bind with a size", []container.Option{container.WithMounts(rootfs.Bind("/a", "/x", rootfs.ReadOnly(), rootfs.Size(1)))}, "WithMounts", "read-only"},
		{"bind with a size, host's users", []container.Option{
			container.WithHostNamespace(namespace.User), container.WithMounts(rootfs.Bind("/a", "/x", rootfs.Size(1))),
		}, "WithMounts", "another project"},
		{"tmpfs of zero bytes", []container.Option{container.WithMounts(rootfs.Tmpfs("/x", rootfs.Size(0)))}, "WithMounts", "at least 1 byte"},
		{"tmpfs of -1 inodes", []container.Option{container.WithMounts(rootfs.Tmpfs("/x", rootfs.Inodes(-1)))}, "WithMounts", "at least 2"},
		{"read-only tmpfs", []container.Option{container.WithMounts(rootfs.Tmpfs("/x", rootfs.ReadOnly()))}, "WithMounts", "empty for good"},
		{"tmpfs mode", []container.Option{container.WithMounts(rootfs.Tmpfs("/x", rootfs.Mode(0o10000)))}, "WithMounts", "at most 07777"},
		{"two mounts on one folder", []container.Option{container.WithMounts(rootfs.Tmpfs("/x"), rootfs.Tmpfs("/x/"))}, "WithMounts", "already"},
		{"a mount of no type", []container.Option{container.WithMounts(rootfs.Mount{Target: "/x"})}, "WithMounts", "use rootfs.Bind"},
		{"relative overlay", []container.Option{container.WithRoot(rootfs.Overlay("x"))}, "WithRoot", "relative"},
		{"overlay with ..", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Below("/b/../c")))}, "WithRoot", `".."`},
		{"overlay of one folder twice", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Below("/a")))}, "WithRoot", "twice"},
		{"overlay of too many folders", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Below(make([]string, 64)...)))}, "WithRoot", "at most 64"},
		{"overlay of -1 bytes", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Size(-1)))}, "WithRoot", "at least 1 byte"},
		{"overlay of 3 inodes", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Inodes(3)))}, "WithRoot", "at least 8"},
		{"writable overlay", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Writable()))}, "WithRoot", "is for rootfs.Dir"},
		{"mapped overlay", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.IDMapped()))}, "WithRoot", "mapped without it"},
		{"overlay's etc", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Etc("x")))}, "WithRoot", "is for rootfs.Host"},
		{"kept and sized", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Upper("/b"), rootfs.Size(1<<20)))}, "WithRoot", "kept in memory"},
		{"relative upper", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Upper("b")))}, "WithRoot", "relative"},
		{"upper inside", []container.Option{container.WithRoot(rootfs.Overlay("/a", rootfs.Upper("/a/b")))}, "WithRoot", "one in the other"},
		{"upper around", []container.Option{container.WithRoot(rootfs.Overlay("/a/b", rootfs.Upper("/a")))}, "WithRoot", "one in the other"},
		{"folder with an upper", []container.Option{container.WithRoot(rootfs.Dir("/a", rootfs.Upper("/b")))}, "WithRoot", "for rootfs.Overlay"},
		{"mapped read-only folder", []container.Option{container.WithRoot(rootfs.Dir("/a", rootfs.IDMapped()))}, "WithRoot", "is for rootfs.Writable"},
		{"host with a size", []container.Option{container.WithRoot(rootfs.Host(rootfs.Size(1)))}, "WithRoot", "never writable"},
		{"relative workspace", []container.Option{container.WithMounts(rootfs.Workspace("a", "/a"))}, "WithMounts", "folder: path"},
		{"workspace on /", []container.Option{container.WithMounts(rootfs.Workspace("/a", "/"))}, "WithMounts", "set by WithRoot"},
		{"mapped workspace", []container.Option{container.WithMounts(rootfs.Workspace("/a", "/a", rootfs.IDMapped()))}, "WithMounts", "is for rootfs.Bind"},
		{"set-user-id workspace", []container.Option{container.WithMounts(rootfs.Workspace("/a", "/a", rootfs.Suid()))}, "WithMounts", "is for rootfs.Bind"},
		{"workspace with a mode", []container.Option{container.WithMounts(rootfs.Workspace("/a", "/a", rootfs.Mode(0o700)))}, "WithMounts", "not for a workspace"},
		{"workspace with a size", []container.Option{container.WithMounts(rootfs.Workspace("/a", "/a", rootfs.Size(1<<20)))}, "WithMounts", "staged workspace"},
		{"read-only staged workspace", []container.Option{container.WithMounts(rootfs.Workspace("/a", "/a", rootfs.Staged(), rootfs.ReadOnly()))}, "WithMounts", "read-only"},
		{"staged workspace of 2 inodes", []container.Option{container.WithMounts(rootfs.Workspace("/a", "/a", rootfs.Staged(), rootfs.Inodes(2)))}, "WithMounts", "at least 8"},
		{"workspace of a named user", []container.Option{container.WithUser("alice"), container.WithMounts(rootfs.Workspace("/a", "/a"))}, "WithMounts", "by name"},
		{"staged bind", []container.Option{container.WithMounts(rootfs.Bind("/a", "/a", rootfs.Staged()))}, "WithMounts", "is for rootfs.Workspace"},
		{"staged tmpfs", []container.Option{container.WithMounts(rootfs.Tmpfs("/a", rootfs.Staged()))}, "WithMounts", "anyway"},
		{"five staged workspaces", []container.Option{container.WithMounts(rootfs.Workspace("/a", "/1", rootfs.Staged()), rootfs.Workspace("/a", "/2", rootfs.Staged()), rootfs.Workspace("/a", "/3", rootfs.Staged()), rootfs.Workspace("/a", "/4", rootfs.Staged()), rootfs.Workspace("/a", "/5", rootfs.Staged()))}, "WithMounts", "at most 4"},
		{"relative file", []container.Option{container.WithFile("x", nil, 0o644)}, "WithFile", "relative"},
		{"file that is a folder", []container.Option{container.WithFile("/tmp/x/", nil, 0o644)}, "WithFile", "names a folder"},
		{"file with a long name", []container.Option{container.WithFile("/tmp/"+long, nil, 0o644)}, "WithFile", "at most 255"},
		{"set-user-id file", []container.Option{container.WithFile("/tmp/x", nil, os.ModeSetuid|0o755)}, "WithFile", "at most 0777"},
		{"file of 17 MiB", []container.Option{container.WithFile("/tmp/x", make([]byte, 17<<20), 0o644)}, "WithFile", "at most 16777216"},
		{"a relative link", []container.Option{container.WithSymlink("x", "y")}, "WithSymlink", "relative"},
		{"a link with ..", []container.Option{container.WithSymlink("x", "/a/../y")}, "WithSymlink", `".."`},
		{"a link as the root", []container.Option{container.WithSymlink("x", "/")}, "WithSymlink", "names a folder"},
		{"a link as a folder", []container.Option{container.WithSymlink("x", "/a/")}, "WithSymlink", "names a folder"},
		{"a link to nothing", []container.Option{container.WithSymlink("", "/a")}, "WithSymlink", "empty target"},
		{"a link to a NUL", []container.Option{container.WithSymlink("a\x00b", "/a")}, "WithSymlink", "NUL"},
		{"a link to 5000 bytes", []container.Option{container.WithSymlink(strings.Repeat("x", 5000), "/a")}, "WithSymlink", "at most 4095"},
		{"a link with a long name", []container.Option{container.WithSymlink("x", "/"+long)}, "WithSymlink", "at most 255"},
		{"a link twice", []container.Option{container.WithSymlink("x", "/a"), container.WithSymlink("y", "//a")}, "WithSymlink", "twice"},
		{"a link over a file", []container.Option{container.WithFile("/a", nil, 0o644), container.WithSymlink("y", "/a")}, "WithSymlink", "twice"},
		{"a relative device", []container.Option{container.WithDevice("dev/null", "", "")}, "WithDevice", "source: path"},
		{"no device", []container.Option{container.WithDevice("", "", "")}, "WithDevice", "empty path"},
		{"a device with ..", []container.Option{container.WithDevice("/dev/../etc", "", "")}, "WithDevice", `".."`},
		{"a device with a NUL", []container.Option{container.WithDevice("/dev/\x00", "", "")}, "WithDevice", "NUL"},
		{"a device at a relative path", []container.Option{container.WithDevice("/dev/null", "x", "")}, "WithDevice", "target: path"},
		{"a device as the root", []container.Option{container.WithDevice("/dev/null", "/", "")}, "WithDevice", "names a folder"},
		{"a device at a folder", []container.Option{container.WithDevice("/dev/null", "/dev/x/", "")}, "WithDevice", "names a folder"},
		{"a device with x", []container.Option{container.WithDevice("/dev/null", "", "rx")}, "WithDevice", "letters"},
		{"a device for m alone", []container.Option{container.WithDevice("/dev/null", "", "m")}, "WithDevice", "with r or w"},
		{"a device with four letters", []container.Option{container.WithDevice("/dev/null", "", "rwmr")}, "WithDevice", "letters"},
		{"a device twice", []container.Option{container.WithDevice("/dev/null", "", ""), container.WithDevice("/dev/zero", "/dev//null", "")}, "WithDevice", "already"},
		{"a device on a mount", []container.Option{container.WithMounts(rootfs.Tmpfs("/x")), container.WithDevice("/dev/zero", "/x", "")}, "WithDevice", "already"},
		{"sysfs of the host's network", []container.Option{container.WithHostNamespace(namespace.Network), container.WithMounts(rootfs.Sysfs())}, "WithMounts", "WithHostNamespace(network)"},
		{"sysfs of a network that is joined", []container.Option{container.WithJoinNamespace(namespace.Network, "/run/netns/x"), container.WithMounts(rootfs.Sysfs())}, "WithMounts", "that is joined"},
		{"sysfs that is writable", []container.Option{container.WithMounts(rootfs.Mount{Type: "sysfs", Target: "/sys"})}, "WithMounts", "read-only"},
		{"sysfs with a size", []container.Option{container.WithMounts(rootfs.Mount{Type: "sysfs", Target: "/sys", ReadOnly: true, Size: 5})}, "WithMounts", "no source, size"},
		{"sysfs at a relative path", []container.Option{container.WithMounts(rootfs.Mount{Type: "sysfs", Target: "sys", ReadOnly: true})}, "WithMounts", "relative"},
		{"a root without a file system", []container.Option{container.WithRoot(rootfs.FS(nil))}, "WithRoot", "no file system"},
		{"a root without an archive", []container.Option{container.WithRoot(rootfs.Tar(""))}, "WithRoot", "no archive"},
		{"a relative archive", []container.Option{container.WithRoot(rootfs.Tar("a.tar"))}, "WithRoot", "relative"},
		{"a root of nothing", []container.Option{container.WithRoot(rootfs.Empty(rootfs.Size(0)))}, "WithRoot", "at least 1 byte"},
		{"a file twice", []container.Option{container.WithFile("/tmp/x", nil, 0o644), container.WithFile("/tmp//x", nil, 0o644)}, "WithFile", "twice"},
		{"files of nothing", []container.Option{container.WithFiles("/tmp", nil)}, "WithFiles", "no file system"},
		{"files with a link", []container.Option{container.WithFiles("/tmp", fstest.MapFS{"l": {Mode: os.ModeSymlink, Data: []byte("x")}})}, "WithFiles", "not a file"},
		{"stop signal of zero", []container.Option{container.WithStopSignal(syscall.Signal(0))}, "WithStopSignal", "from 1 to 64"},
		{"stop signal of 65", []container.Option{container.WithStopSignal(syscall.Signal(65))}, "WithStopSignal", "from 1 to 64"},
		{"no stop signal", []container.Option{container.WithStopSignal(nil)}, "WithStopSignal", "from 1 to 64"},
		{"stop grace below zero", []container.Option{container.WithStopGrace(-1)}, "WithStopGrace", "below zero"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := container.New(tt.opts...)
			require.Nil(t, c)
			var fault *container.OptionError
			require.ErrorAs(t, err, &fault)
			require.Equal(t, tt.option, fault.Option)
			require.Contains(t, fault.Reason, tt.reason)
			require.NotContains(t, err.Error(), "\n\n")
			require.Less(t, len(fault.Error()), 1000)
		})
	}
}

// A container may be asked for much that is unusual and right.
func TestNewTakes(t *testing.T) {
	for name, opt := range map[string]container.Option{
		"nothing":                container.Options(),
		"nil":                    nil,
		"newline in a path":      container.WithDir("/a\nb"),
		"invalid UTF-8 in paths": container.WithMounts(rootfs.Bind("/\xff", "/\xfe")),
		"10,000 arguments":       container.WithCommand("true", make([]string, 10000)...),
		"empty argument":         container.WithCommand("true", ""),
		"empty value":            container.WithEnv("A="),
		"value with newline":     container.WithEnv("A=\n"),
		"later wins":             container.Options(container.WithTimeLimit(-1), container.WithTimeLimit(1)),
		"memory above 32 bits":   container.WithMemoryLimit(8192 * container.MiB),
		"empty file":             container.WithFile("/tmp/x", nil, 0),
		"infinite rlimit":        container.WithRlimit("RLIMIT_STACK", security.Infinity, security.Infinity),
		"label with any text":    container.WithLabel("a b", ""),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := container.New(opt)
			require.NoError(t, err)
		})
	}
}

func TestNewReportsEverything(t *testing.T) {
	_, err := container.New(container.WithHostname("\n"), container.WithTimeLimit(-1), container.WithCommand(""))
	var joined interface{ Unwrap() []error }
	require.ErrorAs(t, err, &joined)
	require.Len(t, joined.Unwrap(), 3)
}

func TestSpecRoundTrip(t *testing.T) {
	c, err := container.New(
		container.WithID("abc"), container.WithLabel("k", "v"), container.WithLabels(map[string]string{"l": "w"}), container.WithTrace(), container.WithStateDir("/run/x"),
		container.WithNamespaces(namespace.PID, namespace.UTS, namespace.Network), container.WithHostname("h"), container.WithSysctl("user.max_pid_namespaces", "1"), container.WithDomainname("d"),
		container.WithJoinNamespace(namespace.IPC, "/run/ipc/x"), container.WithTimeOffsets(namespace.TimeOffsets{Monotonic: -1, Boottime: time.Hour}),
		container.WithIDMaps([]namespace.IDMap{{ContainerID: 0, HostID: 5, Size: 7}}, []namespace.IDMap{{ContainerID: 0, HostID: 5, Size: 7}}),
		container.WithRoot(rootfs.Dir("/srv", rootfs.Writable())), container.WithMounts(rootfs.Tmpfs("/t"), rootfs.Bind("/a", "/b", rootfs.ReadOnly(), rootfs.NoExec())),
		container.WithSymlink("a", "/tmp/l"), container.WithDevice("/dev/null", "/dev/x", "r"), container.WithMounts(rootfs.Sysfs()),
		container.WithFile("/tmp/f", []byte{0, 255}, 0o600), container.WithStopSignal(syscall.SIGINT), container.WithStopGrace(time.Second), container.WithStopOnCancel(),
		container.WithCommand("a", "b", ""), container.WithEnv("A=1"), container.WithDir("/d"), container.WithUser(1, 2), container.WithGroups(3), container.WithUmask(0), container.WithTerminal(1, 2),
		container.WithRlimit("nofile", 1, security.Infinity), container.WithCapabilities("net_admin"), container.WithTimeLimit(time.Minute), container.WithMemoryLimit(container.GiB),
		container.Optional(container.WithCPULimit(0.5)), container.WithIOLimit(cgroup.IOLimit{Device: "8:0", WriteBPS: 1}),
	)
	require.NoError(t, err)
	text, err := json.Marshal(c.Spec())
	require.NoError(t, err)
	var back container.Spec
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, c.Spec(), back)
	again, err := container.FromSpec(back)
	require.NoError(t, err)
	require.Equal(t, c.Spec(), again.Spec())
	named, err := container.New(container.WithCommand("a"), container.WithUser("alice:staff"), container.WithGroups("audio", "5"))
	require.NoError(t, err)
	text, err = json.Marshal(named.Spec())
	require.NoError(t, err)
	require.Contains(t, string(text), `"groups":[5],"user":"alice:staff","group_names":["audio"]`)
	back2 := container.Spec{}
	require.NoError(t, json.Unmarshal(text, &back2))
	require.Equal(t, named.Spec(), back2)
	_, err = container.FromSpec(container.Spec{Job: container.Job{Command: []string{"a"}, User: "a", UID: new(uint32)}})
	require.ErrorContains(t, err, "both a text and ids")
	require.Equal(t, []string{"WithCPULimit"}, back.Job.Optional)
}

// What a namespace is named by that JSON cannot hold is missed, and said so.
func TestSpecJoinsLost(t *testing.T) {
	other, err := container.New(container.WithID("other"))
	require.NoError(t, err)
	c, err := container.New(container.WithNamespaceOf(other, namespace.IPC), container.WithJoinNamespaceFile(namespace.UTS, os.Stdin))
	require.NoError(t, err)
	_, err = container.FromSpec(c.Spec())
	require.NoError(t, err)
	text, err := json.Marshal(c.Spec())
	require.NoError(t, err)
	require.Contains(t, string(text), `"join":[{"kind":"ipc","container":"other"},{"kind":"uts"}]`)
	var back container.Spec
	require.NoError(t, json.Unmarshal(text, &back))
	_, err = container.FromSpec(back)
	require.ErrorContains(t, err, "WithNamespaceOf(other, ipc): that container is not known here")
	require.ErrorContains(t, err, "WithJoinNamespaceFile(uts): no file")
}

// A root that is made is kept but for what only the program has; without that it is
// refused, not taken for an empty one.
func TestMadeRootRoundTrip(t *testing.T) {
	for _, root := range []rootfs.Root{
		rootfs.Empty(rootfs.Size(5), rootfs.Inodes(20), rootfs.ReadOnly()), rootfs.Tar("/a.tar.gz", rootfs.OwnedByRoot()),
		rootfs.FS(fstest.MapFS{}, rootfs.Executable("bin/*")), rootfs.TarAt(strings.NewReader("")),
	} {
		c, err := container.New(container.WithRoot(root))
		require.NoError(t, err)
		text, err := json.Marshal(c.Spec())
		require.NoError(t, err)
		var back container.Spec
		require.NoError(t, json.Unmarshal(text, &back))
		lost := root.Source != nil
		root.Source = nil
		require.Equal(t, root, *back.Root)
		_, err = container.FromSpec(back)
		if lost {
			var fault *container.OptionError
			require.ErrorAs(t, err, &fault)
			require.Equal(t, "WithRoot", fault.Option)
			require.Contains(t, fault.Reason, "JSON does not keep")
			continue
		}
		require.NoError(t, err)
	}
	require.NotContains(t, container.WithRoot(rootfs.FS(fstest.MapFS{"a secret": {}})).String(), "secret")
}

func TestOptionsPrint(t *testing.T) {
	o := container.Options(container.WithHostname("h"), container.JobOptions(container.WithDir("/x"), container.WithTimeLimit(time.Second)))
	require.Equal(t, `WithHostname("h"), WithDir("/x"), WithTimeLimit(1s)`, o.String())
}

func TestResultJSON(t *testing.T) {
	r := container.Result{Status: container.TimeLimit, ExitCode: -1, Signal: 9, WallTime: 5, UserTime: 1, SystemTime: 2, MemoryPeak: 7}
	b, err := json.Marshal(&r)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	require.Equal(t, "time_limit", m["status"])
	require.InDelta(t, 3, m["cpu_time_ns"], 0)
	for _, k := range []string{"exit_code", "signal", "wall_time_ns", "user_time_ns", "system_time_ns", "setup_time_ns", "memory_peak"} {
		require.Contains(t, m, k)
	}
	var back container.Result
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, r, back)
	require.Equal(t, 137, r.ShellCode())
	var exit *container.ExitError
	require.ErrorAs(t, r.Err(), &exit)
	require.Equal(t, "time limit", exit.Error())
	require.Error(t, json.Unmarshal([]byte(`{"status":"fine"}`), &back))
}

// Conditions and types are found through wrapping.
func TestErrorsAreValues(t *testing.T) {
	require.ErrorIs(t, &container.LimitError{Option: "x"}, errors.ErrUnsupported)
	require.ErrorIs(t, &container.StartError{Err: syscall.EPERM}, os.ErrPermission)
}
