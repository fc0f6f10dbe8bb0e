// Command report reads what "go test -json" writes and prints what matters to
// a reader of a CI log: the closing line of each package, and the whole output
// of what failed. It gathers the skipped tests with their reasons, and names the
// slowest.
//
//	go test -json ./... | report [-skips FILE] [-least N]
//
// It fails if a package failed, ended without a verdict, or if fewer than N
// tests ran in one. Of test binaries that were run without go test, .ci/binaries
// tells in lines of its own which package comes and how it ended; test2json,
// which does not see their exit codes, is not believed there.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// event is one line of test2json; see "go doc test2json".
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64 // seconds, of a test that ended
}

// pkg is a package whose end has not come yet.
type pkg struct {
	output  map[string]*strings.Builder // by test; of the package itself under ""
	order   []string                    // of the keys, as they came
	closing bool                        // its closing line has been printed
	binary  bool                        // its end is told by a line "@@ end"
	ran     int                         // tests and subtests that passed or failed
}

type reporter struct {
	skips *os.File // may be nil
	least int
	open  map[string]*pkg
	bad   bool

	passed, skipped, failed int

	slow []event // top-level tests that took more than slowTest
}

// slowTest is from how many seconds on a test is named at the end.
const slowTest = 10

func main() {
	skips := flag.String("skips", "", "append the skipped tests to this `file`: package, test, reason")
	least := flag.Int("least", 0, "fail if fewer than `N` tests ran in a package")
	flag.Parse()
	r := &reporter{least: *least, open: map[string]*pkg{}}
	if *skips != "" {
		f, err := os.OpenFile(*skips, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			fatal(err)
		}
		r.skips = f
	}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			r.line(line)
		}
		if err != nil {
			break
		}
	}
	for name, p := range r.open {
		fmt.Printf("FAIL\t%s\tits output ends without a verdict\n", name)
		p.print()
		r.bad = true
	}
	fmt.Printf("tests and subtests: %d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	r.printSlow()
	if r.skips != nil {
		if err := r.skips.Close(); err != nil {
			fatal(err)
		}
	}
	if r.bad {
		os.Exit(1)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "report:", err)
	os.Exit(2)
}

// line takes one line of input; what is neither an event nor a line of
// .ci/binaries is shown as it came.
func (r *reporter) line(line string) {
	if strings.HasPrefix(line, "@@ ") && r.binary(strings.Fields(line)[1:]) {
		return
	}
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil {
		fmt.Print(line)
		return
	}
	switch e.Action {
	case "build-output":
		fmt.Print(e.Output)
		return
	case "build-fail":
		r.bad = true
		return
	}
	if e.Package == "" {
		return
	}
	p := r.pkg(e.Package)
	switch e.Action {
	case "output":
		if e.Test == "" && closing(e.Output) {
			fmt.Print(e.Output)
			p.closing = true
			return
		}
		p.write(e.Test, e.Output)
	case "pass", "fail", "skip":
		switch {
		case e.Test != "":
			r.endTest(e, p)
		case !p.binary:
			r.endPackage(e.Package, p, e.Action != "fail")
		}
	}
}

// binary takes "begin PACKAGE", "end PACKAGE CODE SECONDS", and "again": the package
// that has not ended is begun anew.
func (r *reporter) binary(words []string) bool {
	switch {
	case len(words) == 2 && words[0] == "begin":
		r.pkg(words[1]).binary = true
	case len(words) == 4 && words[0] == "end":
		p, verdict := r.pkg(words[1]), "ok  "
		if words[2] != "0" {
			verdict = "FAIL"
			p.write("", "exit status "+words[2]+"\n")
		}
		p.closing = true
		r.endPackage(words[1], p, words[2] == "0")
		fmt.Printf("%s\t%s\t%ss\n", verdict, words[1], words[3])
	case len(words) == 1 && words[0] == "again":
		clear(r.open)
	default:
		return false
	}
	return true
}

// pkg is the package of that name, open from now on.
func (r *reporter) pkg(name string) *pkg {
	p := r.open[name]
	if p == nil {
		p = &pkg{output: map[string]*strings.Builder{}}
		r.open[name] = p
	}
	return p
}

// closing tells whether go test ends a package with this line.
func closing(line string) bool {
	for _, start := range []string{"ok  \t", "FAIL\t", "?   \t"} {
		if strings.HasPrefix(line, start) {
			return true
		}
	}
	return false
}

// printSlow names the slowest tests.
func (r *reporter) printSlow() {
	slices.SortFunc(r.slow, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	for i, e := range r.slow[:min(len(r.slow), 30)] {
		if i == 0 {
			fmt.Print("slowest:")
		}
		fmt.Printf(" %s.%s %.0f s", path.Base(e.Package), e.Test, e.Elapsed)
	}
	if len(r.slow) > 0 {
		fmt.Println()
	}
}

func (r *reporter) endTest(e event, p *pkg) {
	text := p.take(e.Test)
	if e.Elapsed > slowTest && !strings.Contains(e.Test, "/") {
		r.slow = append(r.slow, e)
	}
	switch e.Action {
	case "pass":
		r.passed++
		p.ran++
	case "fail":
		r.failed++
		p.ran++
		r.bad = true
		fmt.Print(text)
	case "skip":
		r.skipped++
		if r.skips == nil {
			return
		}
		if _, err := fmt.Fprintf(r.skips, "%s\t%s\t%s\n", e.Package, e.Test, reason(text)); err != nil {
			fatal(err)
		}
	}
}

func (r *reporter) endPackage(name string, p *pkg, ok bool) {
	delete(r.open, name)
	switch {
	case !ok:
		r.bad = true
		p.print()
		if !p.closing {
			fmt.Printf("FAIL\t%s\n", name)
		}
	case p.ran < r.least:
		r.bad = true
		fmt.Printf("FAIL\t%s: %d tests ran, expected at least %d\n", name, p.ran, r.least)
	case !p.closing:
		fmt.Printf("ok  \t%s\n", name)
	}
}

// logged is a line of t.Log, t.Skip and the like.
var logged = regexp.MustCompile(`^\s*\S+\.go:\d+: (.*)$`)

// reason is the last line that a skipped test logged, t.Skip's.
func reason(text string) string {
	why := "no reason given"
	for line := range strings.Lines(text) {
		if m := logged.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			why = strings.ReplaceAll(m[1], "\t", " ")
		}
	}
	return why
}

func (p *pkg) write(test, text string) {
	b := p.output[test]
	if b == nil {
		b = &strings.Builder{}
		p.output[test] = b
		p.order = append(p.order, test)
	}
	b.WriteString(text)
}

// take returns what a test that ended wrote, and forgets it.
func (p *pkg) take(test string) string {
	b := p.output[test]
	if b == nil {
		return ""
	}
	delete(p.output, test)
	return b.String()
}

// print shows what is left: the package's own output and that of tests which
// did not end, a panic or a time-out.
func (p *pkg) print() {
	for _, test := range p.order {
		fmt.Print(p.take(test))
	}
}
