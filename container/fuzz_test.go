package container

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// line is a text that neither breaks a log's line nor talks to a terminal.
func line(t *testing.T, s string) {
	t.Helper()
	require.False(t, strings.ContainsFunc(s, unicode.IsControl), "%q", s)
}

// A stored Spec may hold anything: it is refused with OptionErrors of one line each,
// or it is the same after a way through JSON, and its plans can be sent.
func FuzzSpec(f *testing.F) {
	for _, opts := range [][]Option{
		{WithCommand("a", "b", "")},
		{WithID("abc"), WithLabel("k", "v"), WithHostname("h"), WithUser(1, 2), WithGroups(3), WithUmask(0), WithDir("/d"), WithEnv("A=1"), WithCommand("x")},
		{WithRoot(rootfs.Dir("/srv", rootfs.Writable())), WithMounts(rootfs.Tmpfs("/t"), rootfs.Bind("/a", "/b", rootfs.ReadOnly())), WithFile("/tmp/f", []byte{0, 255}, 0o600)},
		{WithHostNamespace(namespace.User), WithHostNamespace(namespace.Network), WithCommand("x"), WithCapabilities("net_admin"), WithRlimit("nofile", 1, 2)},
		{WithRoot(rootfs.Host(rootfs.Etc("ssl"))), WithNamespaces(namespace.PID), WithSecurebits("noroot"), WithNoNewPrivileges(false), WithMemoryLimit(GiB), Optional(WithCPULimit(0.5)), WithCommand("x")},
	} {
		c, err := New(opts...)
		require.NoError(f, err)
		text, err := json.Marshal(c.Spec())
		require.NoError(f, err)
		f.Add(text)
	}
	for _, text := range []string{
		`{"id": "a\nb", "job": {"command": [""], "env": ["x"], "dir": "a", "uid": 4294967295, "umask": 512, "seccomp": "unconfined", "landlock": {}}}`,
		`{"job": {"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}, "landlock": {"read": ["/usr"], "bind": []}, "ambient": [], "limits": {"cpu_set": "\u001b[2J", "memory": 1}}}`,
		`{"namespaces": ["x", "pid"], "host_namespaces": ["mount", "pid"], "join": [{"kind": "net"}, {"kind": "network", "path": "x"}], "time_offsets": {}, "sysctls": {"a/b": "\n"}}`,
		`{"uid_maps": [{"container_id": 0, "host_id": 4294967295, "size": 2}], "gid_maps": [{"size": 65536}], "stop_signal": 65, "stop_grace_ns": -1, "cgroup_parent": "/a/../b"}`,
		`{"root": {"type": "host", "path": "/x"}, "mounts": [{"type": "bind", "source": "/", "target": "/a/../b"}, {"type": "tmpfs", "target": "//t/", "size": 1, "inodes": 2, "mode": 4096}], "files": [{"path": "/x/", "mode": 511}, {"path": "/\n", "mode": 1}]}`,
		`{"mounts": [{"type": "bind", "source": "/a\nb", "target": "/c\u001bd"}], "files": [{"path": "/e\nf", "mode": 1}], "job": {"command": ["a\nb"], "dir": "/g\nh", "landlock": {"read": ["/i\nj"]}}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Spec
		if json.Unmarshal(text, &s) != nil {
			return
		}
		c, err := FromSpec(s)
		if err != nil {
			joined, ok := err.(interface{ Unwrap() []error })
			require.True(t, ok)
			for _, e := range joined.Unwrap() {
				var option *OptionError
				require.ErrorAs(t, e, &option)
				require.NotEmpty(t, option.Option)
				require.NotEmpty(t, option.Reason)
				line(t, e.Error())
			}
			return
		}
		out, err := json.Marshal(c.Spec())
		require.NoError(t, err)
		var back Spec
		require.NoError(t, json.Unmarshal(out, &back))
		again, err := FromSpec(back)
		require.NoError(t, err, "%s", out)
		twice, err := json.Marshal(again.Spec())
		require.NoError(t, err)
		require.Equal(t, string(out), string(twice))

		for _, arch := range []plan.Arch{plan.AMD64, plan.ARM64} {
			h := madeUp(arch)
			if s.hostUser() {
				h.uids, h.gids, h.initUID, h.initGID = nil, nil, 0, 0
			}
			p, b := compile(&c.spec, h, plan.NewBuilder), compile(&back, h, plan.NewSilentBuilder)
			list, same := []*plan.Plan{p.prepare, p.parent, p.shape, p.child}, []*plan.Plan{b.prepare, b.parent, b.shape, b.child}
			if p.stepIn != nil {
				list, same = append(list, p.stepIn), append(same, b.stepIn)
			}
			if p.teardown != nil {
				list, same = append(list, p.teardown), append(same, b.teardown)
			}
			if len(c.spec.Job.Command) > 0 {
				list = append(list, compileJob(&c.spec, &c.spec.Job, h, stdio{count: 3}, plan.NewBuilder))
				same = append(same, compileJob(&back, &back.Job, h, stdio{count: 3}, plan.NewSilentBuilder))
			}
			for i := range list {
				loud, err := list[i].Encode(arch)
				require.NoError(t, err)
				silent, err := same[i].Encode(arch)
				require.NoError(t, err)
				require.Equal(t, loud, silent)
				for _, step := range list[i].Steps {
					line(t, step.Label)
				}
				same[i].Release()
			}
		}
	})
}

// A stored Result is refused, or is the same after a way through JSON, and can be
// printed.
func FuzzResult(f *testing.F) {
	for _, r := range []Result{
		{},
		{Status: TimeLimit, ExitCode: -1, Signal: 9, WallTime: 5, UserTime: 1, SystemTime: 2, MemoryPeak: 7, Causes: []Cause{{MemoryLimit, 3}}, Notes: []string{"n"}},
		{Status: Lost, Reason: "r", Dropped: []Dropped{{"o", "r"}}},
		{Status: SyscallRefused, Syscall: "mkdir", Signal: 31, CoreDumped: true},
	} {
		text, err := json.Marshal(&r)
		require.NoError(f, err)
		f.Add(text)
	}
	for _, text := range []string{`{"status": "fine"}`, `{"status": 3}`, `{"causes": [{"status": "killed"}, {}]}`, `{"signal": 200, "exit_code": 300}`, `{"user_time_ns": 9223372036854775807, "system_time_ns": 1}`, `{"started": "9999-12-31T23:59:59.999999999-23:59"}`, `null`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Result
		if json.Unmarshal(text, &r) != nil {
			return
		}
		out, err := json.Marshal(&r)
		require.NoError(t, err)
		var back Result
		require.NoError(t, json.Unmarshal(out, &back))
		again, err := json.Marshal(&back)
		require.NoError(t, err)
		require.Equal(t, string(out), string(again))
		require.NotEmpty(t, r.String())
		require.Equal(t, r.String(), back.String())
		require.Equal(t, r.ShellCode(), back.ShellCode())
		require.Equal(t, r.Success(), r.Err() == nil)
		var exit *ExitError
		require.True(t, r.Success() || errors.As(r.Err(), &exit))
	})
}
