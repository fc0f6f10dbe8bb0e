package container_test

import (
	"encoding/json"
	"errors"
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

// Each is refused by New, naming the option, and what is wrong with it.
func TestNewRefuses(t *testing.T) {
	long := strings.Repeat("x", 300)
	maps := []namespace.IDMap{{ContainerID: 0, HostID: 1000, Size: 10}}
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
		{"no supplementary group", []container.Option{container.WithGroups(math.MaxUint32)}, "WithGroups", "an id that is none"},
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
		{"time offsets without the namespace", []container.Option{container.WithTimeOffsets(1, 1)}, "WithTimeOffsets", "needs a time namespace"},
		{"sysctl as a path", []container.Option{container.WithSysctl("net/ipv4", "1")}, "WithSysctl", "not a name with dots"},
		{"sysctl of two lines", []container.Option{container.WithSysctl("net.x", "1\n2")}, "WithSysctl", "not a name with dots"},
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
		{"hostname of the host", []container.Option{container.WithHostname("a"), container.WithHostNamespace(namespace.UTS)}, "WithHostname", "host's UTS namespace"},
		{"newline in id", []container.Option{container.WithID("a\nb")}, "WithID", `character '\n'`},
		{"empty id", []container.Option{container.WithID("")}, "WithID", "empty"},
		{"id with a slash", []container.Option{container.WithID("a/b")}, "WithID", `character '/'`},
		{"id that is ..", []container.Option{container.WithID("..")}, "WithID", `character '.'`},
		{"newline in label", []container.Option{container.WithLabel("a", "b\n")}, "WithLabel", "newline"},
		{"empty label", []container.Option{container.WithLabel("", "b")}, "WithLabel", "empty key"},
		{"relative state folder", []container.Option{container.WithStateDir("x")}, "WithStateDir", "not an absolute path"},
		{"no root", []container.Option{container.WithRoot(rootfs.Root{})}, "WithRoot", "use rootfs.Host or rootfs.Dir"},
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
		{"relative file", []container.Option{container.WithFile("x", nil, 0o644)}, "WithFile", "relative"},
		{"file that is a folder", []container.Option{container.WithFile("/tmp/x/", nil, 0o644)}, "WithFile", "names a folder"},
		{"file with a long name", []container.Option{container.WithFile("/tmp/"+long, nil, 0o644)}, "WithFile", "at most 255"},
		{"set-user-id file", []container.Option{container.WithFile("/tmp/x", nil, os.ModeSetuid|0o755)}, "WithFile", "at most 0777"},
		{"file of 17 MiB", []container.Option{container.WithFile("/tmp/x", make([]byte, 17<<20), 0o644)}, "WithFile", "at most 16777216"},
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
		container.WithID("abc"), container.WithLabel("k", "v"), container.WithStateDir("/run/x"),
		container.WithNamespaces(namespace.PID, namespace.UTS), container.WithHostname("h"), container.WithSysctl("kernel.x", "1"),
		container.WithIDMaps([]namespace.IDMap{{ContainerID: 0, HostID: 5, Size: 7}}, []namespace.IDMap{{ContainerID: 0, HostID: 5, Size: 7}}),
		container.WithRoot(rootfs.Dir("/srv", rootfs.Writable())), container.WithMounts(rootfs.Tmpfs("/t"), rootfs.Bind("/a", "/b", rootfs.ReadOnly(), rootfs.NoExec())),
		container.WithFile("/tmp/f", []byte{0, 255}, 0o600), container.WithStopSignal(syscall.SIGINT), container.WithStopGrace(time.Second), container.WithStopOnCancel(),
		container.WithCommand("a", "b", ""), container.WithEnv("A=1"), container.WithDir("/d"), container.WithUser(1, 2), container.WithGroups(3), container.WithUmask(0),
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
	require.Equal(t, []string{"WithCPULimit"}, back.Job.Optional)
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
