package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// proof is how an attack shows that it can succeed.
type proof int

const (
	// bare: outside of any container, as the test's own user.
	bare proof = iota
	// bareRoot: the same, which needs root.
	bareRoot
	// bareVM: the same, in a machine to lose.
	bareVM
	// opened: in a container with the options of open.
	opened
)

// attack is one thing that a hostile job tries.
type attack struct {
	name  string // of the function
	c     bool   // it is in testdata/attack.c
	class string // the hole that it is about: a CVE, or "kernel doors: bpf"
	args  []string
	proof proof
	open  []container.Option
	// opens are further ones, made with the world at hand.
	opens func(t *testing.T, w *world) []container.Option
	// proofArgs, where they differ from args.
	proofArgs []string
	// needs says what the machine must have for the attack to succeed anywhere: nil where
	// it has it.
	needs func() error
	// once: what it does to a machine stays, so that a second time shows nothing.
	once bool
	// killed: the attack may be ended by a signal, which holds it as well.
	killed bool
	// judge looks at the verdict.
	judge func(*container.Result) error
	// job are further options of the attacker's container.
	job []container.Option
	// without are the layers, any one of which missing lets it out where it is made
	// as user 0 of a container of root's, and landlock those of them beside which the
	// rules of landlockRules hold it: testdata/layers, see withLayers.
	without, landlock []string
}

const (
	shownC  = "/run/attack"
	shownGo = "/run/attack.test"
)

// shown mounts the attack programs.
func (p programs) shown() container.Option {
	return container.WithMounts(rootfs.Bind(p.c, shownC, rootfs.ReadOnly()), rootfs.Bind(p.golang, shownGo, rootfs.ReadOnly()))
}

func (a attack) command(w *world) container.JobOption {
	args := append([]string{a.name}, w.arguments(a.args)...)
	if a.c {
		return container.WithCommand(shownC, args...)
	}
	return container.JobOptions(container.WithCommand(shownGo, args...), container.WithEnv(attackEnv, "GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0"))
}

// verdict of an attack: what it said itself.
type verdict struct {
	escaped bool
	detail  string
}

func (v verdict) String() string {
	if v.escaped {
		return "ESCAPED: " + v.detail
	}
	return "CONTAINED: " + v.detail
}

// said reads an attack's last line.
func said(out string) (verdict, error) {
	list := strings.Split(strings.TrimSpace(out), "\n")
	last := list[len(list)-1]
	if d, ok := strings.CutPrefix(last, "ESCAPED: "); ok {
		return verdict{true, d}, nil
	}
	if d, ok := strings.CutPrefix(last, "CONTAINED: "); ok {
		return verdict{false, d}, nil
	}
	return verdict{}, fmt.Errorf("it said neither: %q", out)
}

// runner runs one attack and returns its verdict.
type runner func(t *testing.T, a attack) (verdict, error)

const patience = 60 * time.Second

// asMain runs each attack as the main job of a container of its own.
func asMain(w *world, p programs, opts ...container.Option) runner {
	return func(t *testing.T, a attack) (verdict, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var out bytes.Buffer
		list := append([]container.Option{p.shown(), a.command(w), container.WithStdout(&out), container.WithStderr(&out)}, opts...)
		res, err := container.Run(ctx, append(list, a.job...)...)
		if err != nil {
			return verdict{}, err
		}
		return a.judged(res, out.String())
	}
}

// byExec runs each as a job of a container that lives on.
func byExec(t *testing.T, w *world, p programs, opts ...container.Option) runner {
	t.Helper()
	var job []container.JobOption // of the container's main job, which it does not have
	for _, o := range opts {
		if j, ok := o.(container.JobOption); ok {
			job = append(job, j)
		}
	}
	return execIn(startContainer(t, p, opts...), w, job...)
}

// startContainer starts one without a main job, until the test ends.
func startContainer(t *testing.T, p programs, opts ...container.Option) *container.Container {
	t.Helper()
	c, err := container.New(append([]container.Option{p.shown()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	require.NoError(t, c.Start(ctx))
	return c
}

// execIn runs each attack as a job of a container.
func execIn(c *container.Container, w *world, opts ...container.JobOption) runner {
	return func(t *testing.T, a attack) (verdict, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var out bytes.Buffer
		list := append(slices.Clip(opts), a.command(w), container.WithStdout(&out), container.WithStderr(&out))
		proc, err := c.Exec(ctx, list...)
		if err != nil {
			return verdict{}, err
		}
		res, err := proc.Wait(ctx)
		if err != nil {
			// How it is kept: /proc/PID/status has its state, its tracer and its signals.
			status, unread := os.ReadFile(fmt.Sprintf("/proc/%d/status", proc.PID()))
			return verdict{}, fmt.Errorf("%w; it is %s", errors.Join(err, unread), status)
		}
		if c.State() != container.StateRunning {
			return verdict{}, fmt.Errorf("the container is %v", c.State())
		}
		return a.judged(res, out.String())
	}
}

// judged is what an attack met, by its own words and by its end.
func (a attack) judged(res *container.Result, out string) (verdict, error) {
	if a.judge != nil {
		if err := a.judge(res); err != nil {
			return verdict{true, err.Error()}, nil
		}
	}
	if res.Status == container.SyscallRefused || a.killed && res.Status != container.Exited {
		return verdict{false, res.String()}, nil
	}
	v, err := said(out)
	if err != nil {
		return v, fmt.Errorf("%v: %w", res, err)
	}
	return v, nil
}

// kinds are who attacks.
func kinds() []struct {
	name  string
	needs []containertest.Feature
	opts  []container.Option
} {
	return []struct {
		name  string
		needs []containertest.Feature
		opts  []container.Option
	}{
		{name: "root"},
		{"ordinary user", []containertest.Feature{containertest.Users}, []container.Option{container.WithUser(1000, 1000)}},
	}
}

// Every attack is contained by a default container, whoever makes it, in a
// container of its own and in one that is used again; and the host is as it was.
func TestContained(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	p := attackPrograms(t)
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			containertest.Require(t, k.needs...)
			w := newWorld(t)
			t.Run("main job", func(t *testing.T) { assault(t, w, attacks, asMain(w, p, k.opts...)) })
			t.Run("Exec", func(t *testing.T) { assault(t, w, attacks, byExec(t, w, p, k.opts...)) })
		})
	}
}

// Nor does a root or a folder that is made of layers let one out.
func TestContainedInLayers(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	p := attackPrograms(t)
	usr := container.WithMounts(rootfs.Bind("/usr", "/usr", rootfs.ReadOnly()))
	base, folder := t.TempDir(), t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(base), 0o700))
	require.NoError(t, os.Chmod(folder, 0o700))
	for _, d := range []string{"usr", "etc"} {
		require.NoError(t, os.Mkdir(filepath.Join(base, d), 0o755))
	}
	for _, n := range []string{"bin", "sbin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + n); err == nil {
			require.NoError(t, os.Symlink(to, filepath.Join(base, n)))
		}
	}
	if _, err := container.Run(t.Context(), container.WithRoot(rootfs.Overlay(base)), usr, container.WithCommand("/bin/true")); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("needs Linux 6.6: user attributes in memory file systems")
	}
	for _, tt := range []struct {
		name  string
		opt   container.Option
		asked []string // what is no attack there
	}{
		// It is there to be written to, /run is a part of it, and its size bounds both.
		{"overlay", container.Options(container.WithRoot(rootfs.Overlay(base)), usr), []string{"write-system", "fill-run", "fill-inodes-run"}},
		{"staged workspace", container.WithMounts(rootfs.Workspace(folder, "/work", rootfs.Staged())), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := slices.DeleteFunc(slices.Clone(attacks), func(a attack) bool { return slices.Contains(tt.asked, a.name) })
			require.Len(t, list, len(attacks)-len(tt.asked))
			w := newWorld(t)
			assault(t, w, list, byExec(t, w, p, tt.opt))
		})
	}
}

// assault makes the attacks and fails for each that got out.
func assault(t *testing.T, w *world, list []attack, run runner) {
	t.Helper()
	for _, a := range list {
		t.Run(a.name, func(t *testing.T) {
			v, err := run(t, a)
			require.NoError(t, err)
			t.Log(v)
			require.False(t, v.escaped, "%v", v)
			w.unharmed(t)
		})
	}
}

// Each attack succeeds where nothing holds it: the check can fail.
func TestAttacksWork(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	p := attackPrograms(t)
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			if a.proof == bareRoot || a.proof == bareVM {
				containertest.Require(t, containertest.Root)
			}
			if a.proof == bareVM && os.Getenv("INLAY_VM") == "" {
				t.Skip("needs a VM: it changes the machine")
			}
			if a.needs != nil {
				if err := a.needs(); err != nil {
					t.Skipf("needs another machine: %v", err)
				}
			}
			w := newWorld(t)
			if a.proofArgs != nil {
				a.args = a.proofArgs
			}
			v, err := func() (verdict, error) {
				if a.proof == opened {
					a.job = slices.Concat(a.job, a.open)
					if a.opens != nil {
						a.job = append(a.job, a.opens(t, w)...)
					}
					return asMain(w, p)(t, a)
				}
				return a.outside(t, w, p)
			}()
			require.NoError(t, err)
			require.True(t, v.escaped, "%v", v)
		})
	}
}

// outside runs the attack as a process of the host's.
func (a attack) outside(t *testing.T, w *world, p programs) (verdict, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	program := p.golang
	if a.c {
		program = p.c
	}
	cmd := exec.CommandContext(ctx, program, append([]string{a.name}, w.arguments(a.args)...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", attackEnv, "GORACE=atexit_sleep_ms=0"}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return verdict{}, err
	}
	v, e := said(string(out))
	return v, errors.Join(err, e)
}
