package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// madeUp is a host that no test machine is: plans compiled for it are the same
// everywhere.
func madeUp(arch plan.Arch) *host {
	maps := []namespace.IDMap{{ContainerID: 0, HostID: 524288, Size: 65536}}
	return &host{
		arch: arch, uids: maps, gids: maps, initUID: 65535, initGID: 65535, setgroups: true, hard: map[string]uint64{"nofile": 20000, "nproc": 30000}, countsProcesses: true,
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
		sourceIsDir: map[string]bool{"/srv/data": true, "/srv/file": false},
	}
}

func explain(t *testing.T, s *Spec, h *host) string {
	t.Helper()
	var b strings.Builder
	p := compile(s, h, plan.NewBuilder)
	for _, pl := range []*plan.Plan{p.prepare, p.parent, p.shape, p.child, compileJob(s, &s.Job, h, stdio{count: 3 + len(s.Job.ExtraFiles)}, plan.NewBuilder)} {
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
	single := madeUp(plan.AMD64)
	single.uids, single.gids = []namespace.IDMap{{ContainerID: 0, HostID: 0, Size: 1}}, []namespace.IDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	single.initUID, single.initGID, single.setgroups = 0, 0, false
	none := madeUp(plan.AMD64)
	none.uids, none.gids, none.initUID, none.initGID, none.countsProcesses = nil, nil, 0, 0, false
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
		{"everything", madeUp(plan.AMD64), []Option{
			WithHostname("box"), WithUser(1000, 1000), WithGroups(5), WithDir("/work"), WithCapabilities("net_admin"), WithRlimit("cpu", 1, 2), WithUmask(0o77),
			WithMounts(rootfs.Bind("/srv/data", "/data/deep"), rootfs.Bind("/srv/file", "/file", rootfs.ReadOnly()), rootfs.Tmpfs("/work", rootfs.NoExec())),
			WithFile("/work/in", []byte("text"), 0o600), WithEnv("PATH=/opt/bin:relative:/usr/bin"), WithExtraFiles(os.Stdin),
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
