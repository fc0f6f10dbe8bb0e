package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/containertest"
)

// peer is another program that holds jobs.
type peer struct {
	name    string
	version string
	// command runs a job that sees both attack programs and, where it is not empty,
	// a folder of the host's.
	command func(ctx context.Context, t *testing.T, folder string, args ...string) *exec.Cmd
}

// peerEnv is a job's environment.
var peerEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", attackEnv, "GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0"}

// besidesUsr are the links beside /usr, and the folders of an older layout.
func besidesUsr(t *testing.T) (links map[string]string, folders []string) {
	t.Helper()
	links = map[string]string{}
	for _, n := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if to, err := os.Readlink(n); err == nil {
			links[n] = to
		} else if _, err := os.Stat(n); err == nil {
			folders = append(folders, n)
		}
	}
	return links, folders
}

// nobody is the ordinary user that starts bwrap.
const nobody = 65534

// bubblewrap as an ordinary user has it, with all that its manual page offers to
// confine a program, but for a seccomp filter: it brings none.
func bubblewrap(t *testing.T, p programs) peer {
	t.Helper()
	containertest.Require(t, containertest.Program("bwrap"))
	args := []string{
		"--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr",
		"--proc", "/proc", "--dev", "/dev", "--size", "268435456", "--tmpfs", "/tmp", "--size", "16777216", "--tmpfs", "/run", "--chdir", "/", "--clearenv",
	}
	links, folders := besidesUsr(t)
	for n, to := range links {
		args = append(args, "--symlink", to, n)
	}
	for _, f := range folders {
		args = append(args, "--ro-bind", f, f)
	}
	for _, kv := range peerEnv {
		key, value, _ := strings.Cut(kv, "=")
		args = append(args, "--setenv", key, value)
	}
	args = append(args, "--ro-bind", p.c, shownC, "--ro-bind", p.golang, shownGo)
	return peer{
		name: "bubblewrap", version: versionOf(t, "bwrap"),
		command: func(ctx context.Context, _ *testing.T, folder string, job ...string) *exec.Cmd {
			// It has no limit of processes: one of the caller's bounds those of attacks.
			all := append([]string{"-c", `ulimit -u 1024; exec "$0" "$@"`, "bwrap"}, args...)
			if folder != "" {
				all = append(all, "--ro-bind", folder, folder)
			}
			cmd := exec.CommandContext(ctx, "sh", append(append(all, "--"), job...)...)
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			return cmd
		},
	}
}

// dockerCapabilities are those that Docker gives to the root of a container.
var dockerCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP",
	"CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// runc as root with what "runc spec" writes, and what Docker adds to that: its
// capabilities, its seccomp profile and a cgroup namespace.
func runc(t *testing.T, p programs) peer {
	t.Helper()
	containertest.Require(t, containertest.Program("runc"))
	base := t.TempDir()
	cmd := exec.Command("runc", "spec", "--bundle", base)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	text, err := os.ReadFile(filepath.Join(base, "config.json"))
	require.NoError(t, err)
	root := filepath.Join(base, "rootfs")
	links, folders := besidesUsr(t)
	for _, d := range append([]string{"/usr", "/proc", "/dev", "/sys", "/tmp", "/run", "/etc"}, folders...) {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755)) //nolint:gosec // the root of a container
	}
	for n, to := range links {
		require.NoError(t, os.Symlink(to, filepath.Join(root, n)))
	}
	n := 0
	return peer{
		name: "runc", version: versionOf(t, "runc"),
		command: func(ctx context.Context, t *testing.T, folder string, job ...string) *exec.Cmd {
			t.Helper()
			var spec specs.Spec
			require.NoError(t, json.Unmarshal(text, &spec))
			spec.Root.Path = root
			spec.Process.Terminal, spec.Process.Args, spec.Process.Env = false, job, peerEnv
			spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: dockerCapabilities, Effective: dockerCapabilities, Permitted: dockerCapabilities}
			if os.Geteuid() == 0 && spec.Linux.Resources != nil {
				most := int64(1024)
				spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &most}
			}
			if !slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace }) {
				spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
			}
			var err error
			spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(&spec)
			require.NoError(t, err)
			bind := func(from, to string) {
				spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: from, Destination: to, Options: []string{"rbind", "ro", "nosuid", "nodev"}})
			}
			memory := func(at, size string) {
				spec.Mounts = append(spec.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: at, Options: []string{"nosuid", "nodev", "mode=1777", "size=" + size}})
			}
			for _, f := range append([]string{"/usr"}, folders...) {
				bind(f, f)
			}
			memory("/tmp", "256m")
			memory("/run", "16m")
			bind(p.c, shownC)
			bind(p.golang, shownGo)
			if folder != "" {
				bind(folder, folder)
			}
			n++
			id := fmt.Sprintf("inlay-peers-%d-%d", os.Getpid(), n)
			spec.Linux.CgroupsPath = "/" + id
			bundle := t.TempDir()
			config, err := json.Marshal(spec)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600))
			state := filepath.Join(bundle, "state")
			t.Cleanup(func() {
				// It has removed itself, unless its time was over.
				out, err := exec.Command("runc", "--root", state, "delete", "--force", id).CombinedOutput()
				require.NoError(t, err, "%s", out)
			})
			return exec.CommandContext(ctx, "runc", "--root", state, "run", "--bundle", bundle, id)
		},
	}
}

func versionOf(t *testing.T, program string) string {
	t.Helper()
	out, err := exec.Command(program, "--version").Output()
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(out), "\n")
	fields := strings.Fields(line)
	return fields[len(fields)-1]
}

// runs has the peer run one job.
func (p peer) runs(t *testing.T, folder string, job ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := p.command(ctx, t, folder, job...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // whoever holds the pipe then was left behind
	err := cmd.Run()
	return out.String(), err
}

// attacked has the peer run an attack. What it changed counts, whatever it says.
func (p peer) attacked(t *testing.T, a attack, w *world, folder string) (verdict, error) {
	t.Helper()
	program := shownGo
	if a.c {
		program = shownC
	}
	out, err := p.runs(t, folder, append([]string{program, a.name}, w.arguments(a.args)...)...)
	if now := w.look(t); now != w.before {
		return verdict{true, "changed the host"}, nil
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return verdict{}, fmt.Errorf("%w: %s", err, out)
	}
	v, unsaid := said(out)
	if unsaid == nil {
		return v, nil
	}
	if exit != nil && exit.ExitCode() > 128 {
		return verdict{false, fmt.Sprintf("ended by signal %d", exit.ExitCode()-128)}, nil
	}
	return verdict{}, errors.Join(err, unsaid)
}

// comparable attacks are about what peers have too, and are let loose on this machine.
// Limits are what inlay promises without options. Process 1, which the names of attacks
// on it tell, is the job itself in runc.
func (a attack) comparable() bool {
	ours := slices.Contains([]string{"init", "verdict", "pids", "sizes", "rlimits"}, a.class) || slices.Contains(strings.Split(a.name, "-"), "init")
	return !ours && a.judge == nil && len(a.job) == 0 && a.here() == nil
}

// The same attacks by user 0 of a default container and through the peers. Nobody
// promises what other programs hold: the table is printed, and rewritten on request.
func TestPeers(t *testing.T) {
	containertest.Require(t, containertest.Root, containertest.Containers)
	p := attackPrograms(t)
	copied := p.forEverybody(t)
	peers := []peer{bubblewrap(t, copied), runc(t, copied)}
	var list []attack
	for _, a := range attacks {
		if a.comparable() {
			list = append(list, a)
		}
	}
	got := map[string]map[string]verdict{"inlay": {}}
	t.Run("inlay", func(t *testing.T) {
		w := newWorld(t)
		for _, a := range list {
			t.Run(a.name, func(t *testing.T) {
				v, err := asMain(w, p)(t, a)
				require.NoError(t, err)
				w.unharmed(t)
				require.False(t, v.escaped, "%v", v)
				got["inlay"][a.name] = v
			})
		}
	})
	failed := map[string]map[string]error{}
	for _, peer := range peers {
		t.Run(peer.name, func(t *testing.T) {
			t.Run("proof", func(t *testing.T) { peer.proven(t) })
			got[peer.name], failed[peer.name] = map[string]verdict{}, map[string]error{}
			for _, a := range list {
				t.Run(a.name, func(t *testing.T) {
					v, err := peer.attacked(t, a, newWorld(t), "")
					if err != nil {
						t.Logf("no verdict: %v", err)
						failed[peer.name][a.name] = err
						return
					}
					t.Log(v)
					got[peer.name][a.name] = v
				})
			}
		})
	}
	if t.Failed() {
		return
	}
	table := peersTable(peers, list, got)
	t.Logf("measured:\n%s", table)
	for name, f := range failed {
		// Some cannot begin there; where many cannot, it is the harness.
		require.LessOrEqual(t, len(f), len(list)/5, "%s: no verdict of %v", name, f)
	}
	if *update {
		paper(t, "peers", table)
	}
}

// forEverybody copies the programs to where any user can reach them.
func (p programs) forEverybody(t *testing.T) programs {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755)) //nolint:gosec // the same
	}
	put := func(from, name string) string {
		in, err := os.Open(from)
		require.NoError(t, err)
		defer in.Close() //nolint:errcheck // it was read
		to := filepath.Join(dir, name)
		out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // a program
		require.NoError(t, err)
		_, err = io.Copy(out, in)
		require.NoError(t, err)
		require.NoError(t, out.Close())
		return to
	}
	return programs{c: put(p.c, "attack"), golang: put(p.golang, "attack.test")}
}

// proven shows that jobs run and that both attack programs do their work there: with
// the host's folder shown to them they get what they are after.
func (p peer) proven(t *testing.T) {
	t.Helper()
	out, err := p.runs(t, "", "true")
	require.NoError(t, err, "%s", out)
	w := newWorld(t)
	for _, a := range []attack{
		{name: "read-canary", c: true, args: []string{w.canary, w.secret}},
		{name: "layer-landlock-file", args: []string{w.canary, w.secret}},
	} {
		v, err := p.attacked(t, a, w, w.dir)
		require.NoError(t, err)
		require.True(t, v.escaped, "%s, with the folder shown: %v", a.name, v)
		v, err = p.attacked(t, a, w, "")
		require.NoError(t, err)
		require.False(t, v.escaped, "%s: %v", a.name, v)
	}
}

// group is an attack's class in general: kernel doors, not which of them.
func (a attack) group() string {
	class, _, _ := strings.Cut(a.kind(), ":")
	if strings.HasPrefix(class, "CVE-") {
		return "known holes, by their CVE"
	}
	return class
}

// peersTable is the table of SECURITY.md.
func peersTable(peers []peer, list []attack, got map[string]map[string]verdict) string {
	var b strings.Builder
	b.WriteString("| class | attacks | inlay")
	for _, p := range peers {
		fmt.Fprintf(&b, " | %s %s", p.name, p.version)
	}
	b.WriteString(" |\n|---|---|---" + strings.Repeat("|---", len(peers)) + "|\n")
	classes := map[string][]attack{}
	for _, a := range list {
		classes[a.group()] = append(classes[a.group()], a)
	}
	cell := func(name string, of []attack) string {
		held, tried := 0, 0
		var out []string
		for _, a := range of {
			v, ran := got[name][a.name]
			switch {
			case !ran:
				continue
			case v.escaped:
				out = append(out, "`"+a.name+"`")
			default:
				held++
			}
			tried++
		}
		if tried == 0 {
			return "not run"
		}
		text := fmt.Sprint(held)
		if tried != len(of) {
			text += fmt.Sprintf(" of %d that ran", tried)
		}
		if len(out) > 0 {
			text += "; out: " + strings.Join(out, ", ")
		}
		return text
	}
	line := func(class string, of []attack) {
		fmt.Fprintf(&b, "| %s | %d | %s", class, len(of), cell("inlay", of))
		for _, p := range peers {
			b.WriteString(" | " + cell(p.name, of))
		}
		b.WriteString(" |\n")
	}
	for _, c := range slices.Sorted(maps.Keys(classes)) {
		line(c, classes[c])
	}
	return b.String()
}
