package attack

import (
	"bytes"
	_ "embed" // for layersText
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/security"
)

var update = flag.Bool("update", false, "rewrite testdata/layers, by what is measured, and the tables of SECURITY.md")

// layersFile has a line for each attack that gets out where a layer is missing:
//
//	NAME: LAYER LAYER+landlock
//
// The second is one beside which rules of Landlock hold it.
const layersFile = "testdata/layers"

//go:embed testdata/layers
var layersText string

// withLayers tells attacks of their lines. A name is one attack's.
func withLayers(list []attack) []attack {
	names := map[string]bool{}
	for _, a := range list {
		if names[a.name] {
			panic("attack " + a.name + " is there twice")
		}
		names[a.name] = true
	}
	for line := range strings.Lines(layersText) {
		name, layers, _ := strings.Cut(strings.TrimSpace(line), ": ")
		i := slices.IndexFunc(list, func(a attack) bool { return a.name == name })
		if i < 0 {
			panic(layersFile + ": no attack " + name)
		}
		for _, l := range strings.Fields(layers) {
			l, held := strings.CutSuffix(l, "+landlock")
			list[i].without = append(list[i].without, l)
			if held {
				list[i].landlock = append(list[i].landlock, l)
			}
		}
	}
	return list
}

// writeLayers writes the lines of all attacks.
func writeLayers(t *testing.T) {
	t.Helper()
	var lines []string
	for _, a := range attacks {
		var layers []string
		for _, l := range a.without {
			if slices.Contains(a.landlock, l) {
				l += "+landlock"
			}
			layers = append(layers, l)
		}
		if len(layers) > 0 {
			lines = append(lines, a.name+": "+strings.Join(layers, " ")+"\n")
		}
	}
	slices.Sort(lines)
	require.NoError(t, os.WriteFile(layersFile, []byte(strings.Join(lines, "")), 0o644)) //nolint:gosec // a source
}

// layer is one of the things that hold a job, and how to have a container without it.
type layer struct {
	name  string // as in attack.without
	title string
	needs []containertest.Feature
	off   []container.Option
	// unmasked leaves /proc as the kernel mounts it: no option does.
	unmasked bool
	// gone tells from what a job sees, in a default container and in this one,
	// whether the layer is off; see view.
	gone func(before, now string) bool
}

func layers() []layer {
	filters := regexp.MustCompile(`(?m)^Seccomp_filters:\t.*`)
	has := func(pattern string) func(string, string) bool {
		p := regexp.MustCompile(pattern)
		return func(before, now string) bool { return !p.MatchString(before) && p.MatchString(now) }
	}
	return []layer{
		{
			name: "seccomp", title: "seccomp profile", off: []container.Option{container.WithSeccomp(security.Unconfined())},
			// One may be left, of prlimit64 alone.
			gone: func(before, now string) bool {
				return filters.FindString(now) != "" && filters.FindString(now) < filters.FindString(before)
			},
		},
		{
			name: "capabilities", title: "empty capability sets", off: []container.Option{container.WithCapabilities(security.AllCapabilities()...)},
			gone: has(`(?m)^CapEff:\t000001ffffffffff$`),
		},
		{
			name: "user-namespace", title: "user namespace", needs: []containertest.Feature{containertest.Root},
			off: []container.Option{container.WithHostNamespace(namespace.User)}, gone: has(`(?m)^ +0 +0 +4294967295$`),
		},
		{
			name: "no-new-privileges", title: "no_new_privs", off: []container.Option{container.WithNoNewPrivileges(false)},
			gone: has(`(?m)^NoNewPrivs:\t0$`),
		},
		{name: "masks", title: "masks and read-only parts of /proc", unmasked: true, gone: has(`(?m)^ +CPU0`)},
	}
}

// view is what a job sees of its own restrictions: credentials, filters, the map of
// its ids, and whether a masked file has anything.
func view(t *testing.T, opts ...container.Option) string {
	t.Helper()
	var out bytes.Buffer
	list := append([]container.Option{
		container.WithCommand("cat", "/proc/self/status", "/proc/self/uid_map", "/proc/interrupts"), container.WithStdout(&out), container.WithStderr(&out),
	}, opts...)
	res, err := container.Run(t.Context(), list...)
	require.NoError(t, err)
	require.NoError(t, res.Err(), "%s", out.String())
	return out.String()
}

// without takes the layer from containers that are started until the test ends, and
// makes sure of it.
func (l layer) without(t *testing.T) {
	t.Helper()
	before := view(t)
	if l.unmasked {
		// A name in /proc that is not there is not covered.
		hook := func(op, path string) error {
			if op == "stat" && strings.HasPrefix(path, "/proc/") {
				return os.ErrNotExist
			}
			return nil
		}
		fault.Hook.Store(&hook)
		t.Cleanup(func() { fault.Hook.Store(nil) })
	}
	now := view(t, l.off...)
	require.True(t, l.gone(before, now), "the layer is not off:\n%s\nbefore:\n%s", now, before)
}

// here tells whether the attack may, and can, succeed on this machine.
func (a attack) here() error {
	if a.proof == bareVM && os.Getenv("INLAY_VM") == "" {
		return errors.New("a VM: it would change the machine")
	}
	if a.needs != nil {
		if err := a.needs(); err != nil {
			return err
		}
	}
	return a.setting()
}

// setting tells of a setting of this machine's that holds the attack wherever a job
// has no capabilities on the host, whichever layer is off.
func (a attack) setting() error {
	for _, s := range []struct {
		attacks, file string
		holds         func(int) bool
	}{
		{"perf-event", "kernel/perf_event_paranoid", func(n int) bool { return n > 2 }}, // Debian's 3
		{"tiocsti tiocsti-high-bits", "dev/tty/legacy_tiocsti", func(n int) bool { return n == 0 }},
	} {
		if !slices.Contains(strings.Fields(s.attacks), a.name) {
			continue
		}
		text, err := os.ReadFile("/proc/sys/" + s.file)
		if errors.Is(err, os.ErrNotExist) {
			continue // an older kernel
		}
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return err
		}
		if s.holds(n) {
			return fmt.Errorf("%s is %d", s.file, n)
		}
	}
	return nil
}

// worthwhile tells whether the attack is made on this machine without that layer: all
// are, but in a VM, which may be emulated, those that only a VM can show, and those
// that get out.
func (a attack) worthwhile(layer string) bool {
	return os.Getenv("INLAY_VM") == "" || a.proof == bareVM || slices.Contains(a.without, layer)
}

// With one layer off at a time, exactly those attacks get out whose line in
// testdata/layers says so; all others are held by what is left. Nobody but root has
// the whole list: more stands in a user's way.
func TestDefenceInDepth(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	p := attackPrograms(t)
	names := []string{}
	for _, l := range layers() {
		names = append(names, l.name)
	}
	out := map[string][]string{} // what got out, by layer
	for _, l := range layers() {
		t.Run(l.name, func(t *testing.T) {
			containertest.Require(t, l.needs...)
			l.without(t)
			for _, a := range attacks {
				require.Subset(t, names, a.without, "%s: no such layer", a.name)
				if !a.worthwhile(l.name) || a.once {
					continue
				}
				t.Run(a.name, func(t *testing.T) {
					listed := slices.Contains(a.without, l.name)
					unable := a.here()
					if unable != nil && a.proof == bareVM {
						t.Skipf("needs %v", unable)
					}
					w := newWorld(t) // its own: what gets out may change it
					v, err := asMain(w, p, l.off...)(t, a)
					require.NoError(t, err)
					t.Log(v)
					if v.escaped {
						out[l.name] = append(out[l.name], a.name)
						require.True(t, listed || *update, "it gets out without %s, and %s has %q: %v", l.name, layersFile, a.without, v)
						return
					}
					w.unharmed(t)
					if listed && unable == nil && os.Geteuid() == 0 {
						require.True(t, *update, "it is contained without %s, and %s has that: %v", l.name, layersFile, v)
					}
				})
			}
		})
	}
	if *update && os.Geteuid() == 0 && !t.Failed() {
		for i := range attacks {
			if a := &attacks[i]; a.here() == nil {
				a.without = slices.DeleteFunc(slices.Clone(names), func(l string) bool { return !slices.Contains(out[l], a.name) })
			}
		}
		writeLayers(t)
	}
	t.Logf("measured:\n%s", layersTable(func(l layer, a attack) bool { return slices.Contains(out[l.name], a.name) }))
}

// landlockRules let a job have its programs and its own memory file system, and
// nothing else.
func landlockRules() []security.LandlockRule {
	read := []string{"/usr", "/run"}
	for _, n := range []string{"/bin", "/lib", "/lib64"} {
		if _, err := os.Stat(n); err == nil {
			read = append(read, n)
		}
	}
	return []security.LandlockRule{
		security.AllowRead(read...), security.AllowWrite("/tmp", "/dev"), security.AllowBind(), security.AllowConnect(),
		security.ScopeSignals(), security.ScopeAbstractSockets(),
	}
}

// requireLandlock skips where the kernel does not keep all of landlockRules.
func requireLandlock(t *testing.T) {
	t.Helper()
	abi, err := security.LandlockABI()
	if err != nil {
		t.Skipf("needs Landlock: %v", err)
	}
	if missing := security.NewLandlock(landlockRules()...).Missing(abi); len(missing) > 0 {
		t.Skipf("needs Landlock: without %s", strings.Join(missing, ", "))
	}
}

// Rules of WithLandlock hold what a default container permits, and of what gets out
// where another layer is missing exactly that whose line says so.
func TestLandlockInDepth(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	requireLandlock(t)
	p := attackPrograms(t)
	rules := container.WithLandlock(landlockRules()...)
	for _, a := range attacksOnLandlock {
		t.Run(a.name, func(t *testing.T) {
			w := newWorld(t)
			v, err := asMain(w, p)(t, a)
			require.NoError(t, err)
			require.True(t, v.escaped, "without rules: %v", v)
			v, err = asMain(w, p, rules)(t, a)
			require.NoError(t, err)
			require.False(t, v.escaped, "with rules: %v", v)
		})
	}
	for _, l := range layers() {
		t.Run(l.name, func(t *testing.T) {
			containertest.Require(t, l.needs...)
			l.without(t)
			for i := range attacks {
				a := &attacks[i]
				if !slices.Contains(a.without, l.name) || a.here() != nil {
					continue
				}
				t.Run(a.name, func(t *testing.T) {
					v, err := asMain(newWorld(t), p, append([]container.Option{rules}, l.off...)...)(t, *a)
					require.NoError(t, err)
					listed := slices.Contains(a.landlock, l.name)
					switch {
					case listed == !v.escaped:
					case *update && listed:
						a.landlock = slices.DeleteFunc(a.landlock, func(n string) bool { return n == l.name })
					case *update:
						a.landlock = append(a.landlock, l.name)
					default:
						require.True(t, !v.escaped && os.Geteuid() != 0, "%s says otherwise: %v", layersFile, v)
					}
				})
			}
		})
	}
	if *update && os.Geteuid() == 0 && !t.Failed() {
		writeLayers(t)
	}
}

// layersTable is the table of SECURITY.md.
func layersTable(escapes func(layer, attack) bool) string {
	var b strings.Builder
	b.WriteString("| off | contained all the same | gets out | of that, held by rules of Landlock where they are asked for |\n|---|---|---|---|\n")
	fmt.Fprintf(&b, "| nothing | %d of %d | | |\n", len(attacks), len(attacks))
	for _, l := range layers() {
		var out, held []attack
		for _, a := range attacks {
			if !escapes(l, a) {
				continue
			}
			out = append(out, a)
			if slices.Contains(a.landlock, l.name) {
				held = append(held, a)
			}
		}
		fmt.Fprintf(&b, "| %s | %d of %d | %s | %s |\n", l.title, len(attacks)-len(out), len(attacks), byClass(out), byClass(held))
	}
	return b.String()
}

// byClass names attacks, those of one class together.
func byClass(list []attack) string {
	named := map[string][]string{}
	for _, a := range list {
		named[a.kind()] = append(named[a.kind()], "`"+a.name+"`")
	}
	var out []string
	for _, c := range slices.Sorted(maps.Keys(named)) {
		out = append(out, c+": "+strings.Join(named[c], ", "))
	}
	return strings.Join(out, "; ")
}

// kind is the attack's class.
func (a attack) kind() string {
	if a.class == "" {
		return "other"
	}
	return a.class
}

const securityPaper = "../../SECURITY.md"

// section is what stands between two comments of a Markdown text, and what stands
// around it.
func section(text, name string) (before, inside, after string, err error) {
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	inside, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", "", "", fmt.Errorf("%s has no section %q", securityPaper, name)
	}
	return before + begin, inside, end + after, nil
}

// paper compares a section of SECURITY.md with a text, or has it rewritten.
func paper(t *testing.T, name, text string) {
	t.Helper()
	file, err := os.ReadFile(securityPaper)
	require.NoError(t, err)
	before, inside, after, err := section(string(file), name)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(securityPaper, []byte(before+text+after), 0o644)) //nolint:gosec // a paper
		return
	}
	require.Equal(t, text, inside, "SECURITY.md is not what the attacks say; make golden rewrites it")
}

// The table in SECURITY.md is what testdata/layers says, which TestDefenceInDepth and
// TestLandlockInDepth hold against what they measure.
func TestGoldenLayers(t *testing.T) {
	paper(t, "layers", layersTable(func(l layer, a attack) bool { return slices.Contains(a.without, l.name) }))
}
