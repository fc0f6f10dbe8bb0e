package container

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// madeUp is a host that no test machine is: plans compiled for it are the same
// everywhere.
func madeUp(arch plan.Arch) *host {
	maps := []namespace.IDMap{{ContainerID: 0, HostID: 524288, Size: 65536}}
	return &host{
		arch: arch, uids: maps, gids: maps, initUID: 65535, initGID: 65535, setgroups: true, hard: map[string]uint64{"nofile": 20000, "nproc": 30000}, countsProcesses: true, landlock: 6,
		machine: &rootfs.Machine{
			Links: map[string]string{"bin": "usr/bin", "lib": "usr/lib"}, Folders: []string{"usr", "nix/store"}, HasEtc: true,
			Etc: []rootfs.EtcEntry{
				{Name: "group"},
				{Name: "hostname"},
				{Name: "hosts"},
				{Name: "nsswitch.conf"},
				{Name: "passwd"},
				{Name: "resolv.conf"},
				{Name: "shadow"},
				{Name: "ssh", Folder: true},
				{Name: "ssl/private", Folder: true},
			},
			Proc: []string{"acpi", "kcore", "bus", "sys"}, Mqueue: true,
		},
		killFile:    "/sys/fs/cgroup/inlay-1-0/id/cgroup.kill",
		sourceIsDir: map[string]bool{"/srv/data": true, "/srv/file": false},
		nodes:       map[string]rootfs.Node{"/dev/kvm": {Mode: 0o020666, Major: 10, Minor: 232}, "/dev/sda": {Mode: 0o060660, Major: 8, Minor: 0}}, sysMasked: []string{"firmware"},
	}
}

// sampleArchive has one of all that a root can be filled with.
func sampleArchive(t *testing.T) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o751},
		{Name: "home/", Typeflag: tar.TypeDir, Mode: 0o2700, Uid: 1000, Gid: 100},
		{Name: "home/f", Mode: 0o4750, Uid: 1000, Gid: 100, Size: 5, ModTime: time.Unix(1e9, 0)},
		{Name: "home/l", Typeflag: tar.TypeSymlink, Linkname: "f", Uid: 1000, Gid: 100},
		{Name: "twin", Typeflag: tar.TypeLink, Linkname: "home/f"},
		{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		{Name: "empty", Mode: 0o644},
	} {
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write([]byte("12345")[:h.Size])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return bytes.NewReader(b.Bytes())
}

func explain(t *testing.T, s *Spec, h *host) string {
	t.Helper()
	var b strings.Builder
	if root := s.root(); root.Made() {
		tree, err := root.Read(t.Context(), nil)
		require.NoError(t, err)
		h.tree = tree
	}
	p := compile(s, h, plan.NewBuilder)
	list := []*plan.Plan{p.prepare}
	if p.stepIn != nil {
		list = append(list, p.stepIn)
	}
	list = append(list, p.parent, p.shape, p.child, compileJob(s, &s.Job, h, stdio{count: 3 + len(s.Job.ExtraFiles), terminal: s.Job.Terminal != nil, cpuset: s.Job.Limits.CPUSet != nil}, plan.NewBuilder))
	if p.teardown != nil {
		list = append(list, p.teardown)
	}
	for _, pl := range list {
		require.NoError(t, pl.Explain(&b))
		for _, arch := range []plan.Arch{plan.AMD64, plan.ARM64} {
			_, err := pl.Encode(arch)
			require.NoError(t, err)
		}
	}
	return b.String()
}

// Whole plans, as text: a review shows which system calls a change adds.
func TestGoldenPlans(t *testing.T) {
	mapped := madeUp(plan.AMD64)
	mapped.mapRoot = map[string]bool{"/srv/top": true, "/srv/base": true, "/srv/job": true}
	mapped.workspaces = map[string]rootfs.Owner{"/srv/project": {UIDs: "1000 524288 1\n", GIDs: "100 524288 1\n", Mode: 0o755, DevMajor: 8, DevMinor: 1, Ino: 77}}
	single := madeUp(plan.AMD64)
	single.uids, single.gids = []namespace.IDMap{{ContainerID: 0, HostID: 0, Size: 1}}, []namespace.IDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	single.initUID, single.initGID, single.setgroups = 0, 0, false
	old := madeUp(plan.AMD64)
	old.remount = true
	none := madeUp(plan.AMD64)
	none.uids, none.gids, none.initUID, none.initGID, none.countsProcesses = nil, nil, 0, 0, false
	other, err := New(WithID("other"), WithHostname("box"))
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		host *host
		opts []Option
	}{
		{"default", madeUp(plan.AMD64), nil},
		{"arm64", madeUp(plan.ARM64), nil},
		{"single-id", single, nil},
		{"no-user-namespace", none, []Option{WithHostNamespace(namespace.User), WithHostNamespace(namespace.Network), WithHostNamespace(namespace.UTS), WithHostNamespace(namespace.IPC)}},
		{"narrow-etc", madeUp(plan.AMD64), []Option{WithRoot(rootfs.Host(rootfs.Etc("ssl")))}},
		{"dir", madeUp(plan.AMD64), []Option{WithRoot(rootfs.Dir("/srv/root"))}},
		{"dir-writable", madeUp(plan.AMD64), []Option{WithRoot(rootfs.Dir("/srv/root", rootfs.Writable()))}},
		{"overlay", mapped, []Option{
			WithRoot(rootfs.Overlay("/srv/top", rootfs.Below("/srv/base"), rootfs.Size(64<<20))),
			WithMounts(rootfs.Workspace("/srv/project", "/work", rootfs.Staged()), rootfs.Workspace("/srv/out", "/out"), rootfs.Bind("/srv/data", "/data", rootfs.IDMapped())),
		}},
		{"overlay-kept", mapped, []Option{WithRoot(rootfs.Overlay("/srv/base", rootfs.Upper("/srv/job")))}},
		{"everything", madeUp(plan.AMD64), []Option{
			WithHostname("box"), WithDomainname("dom"), WithSysctl("net.ipv4.ip_forward", "1"), WithSysctl("kernel.shmmax", "65536"), WithUser(1000, 1000), WithGroups(5), WithDir("/work"), WithCapabilities("net_admin"), WithRlimit("cpu", 1, 2), WithUmask(0o77),
			WithMounts(rootfs.Bind("/srv/data", "/data/deep"), rootfs.Bind("/srv/file", "/file", rootfs.ReadOnly()), rootfs.Tmpfs("/work", rootfs.NoExec())),
			WithFile("/work/in", []byte("text"), 0o600), WithEnv("PATH=/opt/bin:relative:/usr/bin"), WithExtraFiles(os.Stdin), WithCPUSet("0-1"),
		}},
		{"terminal", madeUp(plan.AMD64), []Option{WithTerminal(24, 80), WithUser(1000, 1000), WithExtraFiles(os.Stdin)}},
		{"empty", madeUp(plan.AMD64), []Option{
			WithRoot(rootfs.Empty(rootfs.Size(1<<20), rootfs.Inodes(100), rootfs.ReadOnly())), WithMounts(rootfs.Sysfs()), WithSymlink("usr/bin", "/bin"),
			WithDevice("/dev/kvm", "", ""), WithDevice("/dev/sda", "/disk/a", "r"), WithDevice("/dev/none", "", ""),
		}},
		{"tar", madeUp(plan.AMD64), []Option{WithRoot(rootfs.TarAt(sampleArchive(t)))}},
		{"landlock", madeUp(plan.AMD64), []Option{
			WithLandlock(security.AllowRead("/usr"), security.AllowWrite("/tmp"), security.AllowBind(), security.AllowConnect(443), security.ScopeSignals()),
		}},
		{"remount", old, []Option{
			WithRoot(rootfs.Dir("/srv/root")), WithMounts(rootfs.Bind("/srv/data", "/data", rootfs.ReadOnly()), rootfs.Bind("/srv/file", "/file"), rootfs.Workspace("/srv/out", "/out")), WithDevice("/dev/kvm", "", ""),
		}},
		{"remount-host", old, nil},
		{"clocks", madeUp(plan.AMD64), []Option{WithTimeOffsets(namespace.TimeOffsets{Monotonic: -time.Millisecond, Boottime: time.Hour})}},
		{"join", madeUp(plan.AMD64), []Option{
			WithJoinNamespace(namespace.Network, "/run/netns/blue"), WithJoinNamespaceFile(namespace.IPC, os.Stdin), WithNamespaceOf(other, namespace.UTS, namespace.Time),
		}},
		{"join-pid", madeUp(plan.AMD64), []Option{WithNamespaceOf(other, namespace.User, namespace.PID)}},
		{"host-pid", madeUp(plan.AMD64), []Option{WithHostNamespace(namespace.PID)}},
		{"gains", madeUp(plan.AMD64), []Option{
			WithUser(1000, 1000), WithNoNewPrivileges(false), WithCapabilities("net_admin", "setpcap"), WithAmbientCapabilities("net_admin"), WithSecurebits("noroot"),
			WithMounts(rootfs.Bind("/srv/data", "/data/deep", rootfs.Suid())), WithLandlock(security.ScopeAbstractSockets()),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(append([]Option{WithID("id"), WithCommand("prog", "arg")}, tt.opts...)...)
			require.NoError(t, err)
			text := explain(t, &c.spec, tt.host)
			path := filepath.Join("testdata", "plans", tt.name+".golden")
			if *update {
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err, "go test -update writes it")
			require.Equal(t, string(want), text)
		})
	}
}

// The same request on the same host makes the same plan, to the byte.
func TestPlansAreDeterministic(t *testing.T) {
	c, err := New(WithID("x"), WithCommand("true"))
	require.NoError(t, err)
	first := explain(t, &c.spec, madeUp(plan.AMD64))
	for range 20 {
		require.Equal(t, first, explain(t, &c.spec, madeUp(plan.AMD64)))
	}
}

// A launch's plan has the same steps as the one that is explained.
func TestSilentPlansAreTheSame(t *testing.T) {
	c, err := New(WithID("x"), WithCommand("true"), WithMounts(rootfs.Tmpfs("/w")), WithFile("/w/x", make([]byte, 9000), 0o644))
	require.NoError(t, err)
	h := madeUp(plan.AMD64)
	a, b := compile(&c.spec, h, plan.NewBuilder), compile(&c.spec, h, plan.NewSilentBuilder)
	for i, l := range []*plan.Plan{a.prepare, a.parent, a.shape, a.child, compileJob(&c.spec, &c.spec.Job, h, stdio{count: 3}, plan.NewBuilder)} {
		q := []*plan.Plan{b.prepare, b.parent, b.shape, b.child, compileJob(&c.spec, &c.spec.Job, h, stdio{count: 3}, plan.NewSilentBuilder)}[i]
		loud, err := l.Encode(plan.AMD64)
		require.NoError(t, err)
		silent, err := q.Encode(plan.AMD64)
		require.NoError(t, err)
		require.Equal(t, loud, silent)
		require.NotEmpty(t, l.Steps[0].Label)
		require.Empty(t, q.Steps[0].Label)
	}
}
