//go:build linux

package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/namespace"
)

// madeUpUser is an unprivileged process of a host where all is well; its /proc,
// /sys and /etc lie in a folder of testdata.
func madeUpUser(name string) *description {
	var trials []trial
	for _, call := range []string{"openat2", "close_range", "clone3", "pidfd_open", "mount_setattr", "fsopen"} {
		trials = append(trials, trial{name: call})
	}
	return &description{
		root: filepath.Join("testdata", "probe", name), arch: "linux/amd64", supported: true,
		uid: 1000, user: "ann", binary: "/opt/judge/bin/judge", newUser: true, mode: cgroup.V2, trials: trials,
		tryUser:  func() error { return nil },
		lookPath: func(name string) (string, bool, error) { return "/usr/bin/" + name, true, nil },
		groups:   []string{"/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service"}, controllers: []string{"cpu", "io", "memory", "pids"}, without: []string{"cpuset"},
		landlock: 6,
	}
}

// Whole reports of hosts that are not at hand, as text.
func TestProbeGolden(t *testing.T) {
	t.Parallel()
	asRoot := func(d *description) { d.uid, d.user, d.privileged = 0, "root", true }
	closed := func(d *description) {
		d.groupsErr = &cgroup.Error{Op: "open", Path: "/sys/fs/cgroup", Err: unix.EROFS, Remedy: "mount it writable"}
	}
	for _, tt := range []struct {
		name   string
		ok     bool
		change func(*description)
	}{
		{name: "well", ok: true},
		{name: "userns-max-zero"},
		{name: "userns-debian"},
		{name: "apparmor"},
		{name: "apparmor-profile", ok: true},
		{name: "seccomp", change: func(d *description) { d.tryUser = func() error { return unix.EPERM } }},
		{name: "proc-masked", change: closed},
		{name: "proc-read-only"},
		{name: "no-subuid", ok: true},
		{name: "no-newuidmap", ok: true, change: func(d *description) {
			d.lookPath = func(string) (string, bool, error) { return "", false, exec.ErrNotFound }
		}},
		{name: "newuidmap-powerless", change: func(d *description) {
			d.needsUsers = true
			d.lookPath = func(name string) (string, bool, error) { return "/usr/bin/" + name, name == "newuidmap", nil }
		}},
		{name: "cgroup-v2-closed", ok: true, change: closed},
		{name: "cgroup-hybrid", ok: true, change: func(d *description) { d.mode = cgroup.Hybrid }},
		{name: "cgroup-none", ok: true, change: func(d *description) { d.mode = cgroup.Unavailable }},
		{name: "root", ok: true, change: asRoot},
		{name: "nested-root", change: func(d *description) { asRoot(d); closed(d) }},
		{name: "old-kernel", ok: true, change: func(d *description) { d.trials[4].err, d.landlock = unix.ENOSYS, 2 }},
		{name: "older-kernel", change: func(d *description) {
			d.trials[2].err, d.trials[4].err, d.landlockErr = unix.ENOSYS, unix.ENOSYS, unix.ENOSYS
		}},
		{name: "calls-hidden", change: func(d *description) {
			d.arch, d.supported = "linux/riscv64", false
			d.trials[2].err, d.trials[4].err = unix.ENOSYS, unix.EPERM
			d.landlockErr = unix.ENOSYS
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := madeUpUser(tt.name)
			if tt.change != nil {
				tt.change(d)
			}
			r := &Report{Findings: d.findings()}
			require.Equal(t, tt.ok, r.OK(), "%s", r)
			golden := d.root + ".golden"
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(r.String()), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "go test -update writes it")
			require.Equal(t, string(want), r.String())
		})
	}
}

// Every folder of testdata is some case's.
func TestProbeGoldenAreUsed(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(filepath.Join("testdata", "probe"))
	require.NoError(t, err)
	folders, goldens := 0, 0
	for _, e := range entries {
		if e.IsDir() {
			folders++
			require.FileExists(t, filepath.Join("testdata", "probe", e.Name()+".golden"))
		} else {
			goldens++
		}
	}
	require.Equal(t, folders, goldens)
}

// Who has CAP_SYS_ADMIN is refused by the limit alone, and does without any user
// namespace where the container has the host's.
func TestProbePrivileged(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"userns-debian", "apparmor"} {
		d := madeUpUser(name)
		d.privileged = true
		require.True(t, (&Report{Findings: d.findings()}).OK(), "%s", name)
	}
	d := madeUpUser("userns-max-zero")
	d.privileged = true
	f := d.userNamespaces()
	require.True(t, f.failed())
	d.newUser = false
	require.True(t, (&Report{Findings: d.findings()}).OK())
	d = madeUpUser("proc-masked")
	d.privileged, d.newUser = true, false
	f = d.proc()
	require.True(t, f.OK)
}

// What keeps only users other than 0 out fails where the job is one.
func TestProbeNeedsUsers(t *testing.T) {
	t.Parallel()
	d := madeUpUser("no-subuid")
	f := d.idRange()
	require.True(t, f.Note)
	d.needsUsers = true
	f = d.idRange()
	require.True(t, f.failed())
	require.Equal(t, "sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ann", f.Remedy)
	d.user = "" // not in /etc/passwd
	f = d.idRange()
	require.True(t, strings.HasSuffix(f.Remedy, " 1000"), "%s", f.Remedy)
}

func TestAppArmorPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/opt/judge":    "/opt/judge",
		"/opt/a b":      `"/opt/a b"`,
		"/opt/a*{b,c}":  `"/opt/a\*\{b,c\}"`,
		`/opt/@{HOME}"`: `"/opt/\@\{HOME\}\""`,
	} {
		require.Equal(t, want, appArmorPath(in))
	}
	require.Contains(t, appArmorRemedy("/opt/a b*"), `profile inlay-a_b_ "/opt/a b\*" flags=(unconfined) {`)
}

// The shell takes the remedy as WriteTo prints it, tabs and all.
func TestAppArmorRemedyIsShell(t *testing.T) {
	t.Parallel()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs sh: " + err.Error())
	}
	r := Report{Findings: []Finding{{Name: "x", Remedy: appArmorRemedy("/opt/judge")}}}
	_, script, _ := strings.Cut(r.String(), "\n")
	script = strings.NewReplacer("sudo tee /etc/apparmor.d/inlay-judge", "cat", "sudo apparmor_parser -r", "echo").Replace(script)
	out, err := exec.CommandContext(t.Context(), sh, "-c", script).CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "abi <abi/4.0>,\ninclude <tunables/global>\nprofile inlay-judge /opt/judge flags=(unconfined) {\n  userns,\n}\n/etc/apparmor.d/inlay-judge\n", string(out))
}

func TestProbeStateDir(t *testing.T) {
	t.Parallel()
	dir, uid := t.TempDir(), uint32(os.Geteuid())
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	open := filepath.Join(dir, "open")
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o777)) // whatever the umask
	good := filepath.Join(dir, "good")
	require.NoError(t, os.Mkdir(good, 0o700))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(good, link))
	for _, tt := range []struct {
		name, dir string
		uid       uint32
		err       error
	}{
		{"there", good, uid, nil},
		{"to be made", filepath.Join(good, "new"), uid, nil},
		{"nowhere", filepath.Join(good, "no", "new"), uid, unix.ENOENT},
		{"a file", file, uid, unix.ENOTDIR},
		{"a link", link, uid, unix.ENOTDIR},
		{"open to others", open, uid, unix.EPERM},
		{"another user's", good, uid + 1, unix.EPERM},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := probeStateDir(tt.dir, tt.uid)
			require.ErrorIs(t, f.err, tt.err)
			require.Equal(t, tt.err == nil, f.OK)
			require.Equal(t, tt.err != nil, f.Remedy != "")
		})
	}
	require.NoDirExists(t, filepath.Join(good, "new"))
}

func TestProbeOptions(t *testing.T) {
	t.Parallel()
	spec := func(opts ...Option) Spec {
		var s Spec
		for _, o := range opts {
			o.applyContainer(&s)
		}
		return s
	}
	require.Equal(t, Finding{Name: "options", OK: true, Detail: "nothing is refused"}, probeOptions(spec()))

	nowhere := WithCgroupParent("/inlay/no/such/group")
	f := probeOptions(spec(nowhere, WithMemoryLimit(64*MiB)))
	require.False(t, f.OK)
	require.Contains(t, f.Detail, "WithMemoryLimit: there are no control groups here: ")
	var limit *LimitError
	require.ErrorAs(t, f.err, &limit)

	f = probeOptions(spec(Optional(nowhere), Optional(WithMemoryLimit(64*MiB))))
	require.True(t, f.OK && f.Note)
	require.Contains(t, f.Detail, "optional, and left out: WithMemoryLimit (")

	f = probeOptions(spec(WithHostname("")))
	require.False(t, f.OK)
	var option *OptionError
	require.ErrorAs(t, f.err, &option)
}

// A container that starts is right against what files made believe; one that does
// not points to the finding that explains it.
func TestProbeConclude(t *testing.T) {
	t.Parallel()
	d := madeUpUser("apparmor")
	r := &Report{Findings: d.findings()}
	require.False(t, r.OK())
	r.conclude(Finding{Name: "launch", OK: true})
	require.True(t, r.OK())
	require.Contains(t, r.String(), "note  user namespaces: made but powerless")
	require.Contains(t, r.String(), "; a container starts all the same\n")

	r = &Report{Findings: d.findings()}
	r.conclude(Finding{Name: "launch", Detail: "mount", Remedy: "see container.Probe"})
	require.Contains(t, r.String(), "no    launch: mount\n\tsee \"user namespaces\" above\n")
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := &Report{Findings: []Finding{
		{Name: "a", OK: true, Detail: "is there"},
		{Name: "b", Detail: "is not", Remedy: "one\ntwo", err: unix.EPERM},
		{Name: "c", Note: true, Detail: "would be nice"},
		{Name: "d", Detail: "neither", Remedy: "buy it"},
	}}
	require.False(t, r.OK())
	err := r.Err()
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, err, unix.EPERM)
	require.EqualError(t, err, "inlay: b: is not\none\ntwo\ninlay: d: neither (buy it)")

	var b bytes.Buffer
	n, err := r.WriteTo(&b)
	require.NoError(t, err)
	require.Equal(t, int64(b.Len()), n)
	require.Equal(t, "ok    a: is there\nno    b: is not\n\tone\n\ttwo\nnote  c: would be nice\nno    d: neither\n\tbuy it\n", b.String())

	data, err := json.Marshal(r.Findings[1:3])
	require.NoError(t, err)
	require.JSONEq(t, `[{"name":"b","ok":false,"detail":"is not","remedy":"one\ntwo"},{"name":"c","ok":false,"note":true,"detail":"would be nice"}]`, string(data))

	r = &Report{Findings: r.Findings[:1]}
	require.True(t, r.OK())
	require.NoError(t, r.Err())
}

// This very kernel has every call, or no container starts.
func TestProbeThisHost(t *testing.T) {
	_, starts := Run(t.Context(), WithCommand("true"))
	r, err := Probe(t.Context())
	require.NoError(t, err)
	require.Equal(t, starts == nil, r.OK(), "%s", r)
	if starts != nil {
		require.ErrorIs(t, r.Err(), errors.ErrUnsupported)
		t.Skipf("needs containers: %v", starts)
	}
	require.NoError(t, r.Err())
	for _, f := range r.Findings {
		require.NotContains(t, f.Detail, "starts all the same", "%s is wrong about this host", f.Name)
		require.NotContains(t, f.Detail, "cannot tell", "%s", f.Name)
	}

	// Many at once, and nothing is left of them: the launcher has begun already.
	before := left(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			r, err := Probe(t.Context(), WithCommand("no such command"), WithID("same"), WithStdin(strings.NewReader("x")))
			if err != nil || !r.OK() {
				t.Errorf("%v\n%v", err, r)
			}
		})
	}
	all.Wait()
	require.Equal(t, before, left(t))

	// A refusal comes without a launch.
	r, err = Probe(t.Context(), WithCgroupParent("/inlay/no/such/group"))
	require.NoError(t, err)
	require.False(t, r.OK())
	var limit *LimitError
	require.ErrorAs(t, r.Err(), &limit)
	require.Contains(t, r.String(), "no    launch: not tried: the options are refused\n")

	// What only a start shows.
	r, err = Probe(t.Context(), WithStateDir("/no/such/folder"))
	require.NoError(t, err)
	require.ErrorIs(t, r.Err(), unix.ENOENT)
	var start *StartError
	require.ErrorAs(t, r.Err(), &start)
	if os.Geteuid() == 0 {
		r, err = Probe(t.Context(), WithHostNamespace(namespace.User))
		require.NoError(t, err)
		require.True(t, r.OK(), "%s", r)
	}
}

// left is what a Probe could leave: open files and children of this process.
func left(t *testing.T) map[string]int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	children := 0
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, f := range tasks {
		list, err := os.ReadFile(f)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			continue // a thread that has ended
		}
		require.NoError(t, err)
		children += len(strings.Fields(string(list)))
	}
	return map[string]int{"files": len(fds), "children": children}
}

func TestProbeCanceled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := Probe(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Nil(t, r)
}
