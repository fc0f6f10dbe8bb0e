// Command bench measures what a launch costs, beside os/exec and beside two C
// programs on raw system calls that it builds itself: base (vfork, execve, wait
// of a tiny static program) and floor (the same with everything that the default
// container does). Rows are interleaved; every figure is a median, each row once
// back to back, in blocks of ten whose first two do not count (what the row before
// left to do may still be under way), and once with 150 ms between launches.
//
// Two more parts look at control groups: groups measures them beside C, beside
// containerd/cgroups and in launches with limits; accuracy compares the reported
// figures with known ones.
//
// Overhead is what a job under the default seccomp filter pays, beside the same
// without one.
//
// Network measures what a bridge and a rate add to a launch.
//
// Copy compares CopyIn, CopyOut, TarIn and TarOut with cp and tar.
//
// Dial compares connecting to a server in a container with connecting to one on the
// host's loopback.
//
// Form compares the launcher with one that keeps the Go runtime's memory.
//
//	go run ./bench [-rounds N] [-spaced N] [-resident N] [launch|form|groups|overhead|accuracy|copy|dial|network|host|resident|import]...
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/rootfs"
)

var (
	rounds   = flag.Int("rounds", 300, "launches of each row, back to back")
	spaced   = flag.Int("spaced", 20, "launches of each row with 150 ms between")
	resident = flag.Int("resident", 1000, "containers that are there at once")
	sources  = flag.String("sources", "bench/c", "where the C programs are")
	peer     = flag.String("peer", "bench/peer", "where the program on containerd/cgroups is")
)

// row is one way to launch; it returns the time of one launch.
type row struct {
	name string
	once func() (time.Duration, error)
}

func main() {
	flag.Parse()
	parts := flag.Args()
	if len(parts) == 2 && parts[0] == "serve" {
		if err := serve(parts[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	if len(parts) == 1 && parts[0] == "accept" {
		fmt.Println(accepts())
		os.Exit(1)
	}
	if len(parts) == 0 {
		parts = []string{"launch", "form", "groups", "overhead", "accuracy", "copy", "dial", "network", "host", "resident", "import"}
	}
	for _, p := range parts {
		f := map[string]func() error{
			"launch": launch, "form": form, "groups": groups, "overhead": overhead, "accuracy": accuracy, "copy": copies, "dial": dials, "network": networks, "network-here": networkHere, "host": hostSize, "resident": residents, "import": imports,
		}[p]
		if f == nil {
			fmt.Fprintln(os.Stderr, "no such part:", p)
			os.Exit(2)
		}
		if err := f(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", p, err)
			os.Exit(1)
		}
	}
}

// timed measures one call.
func timed(f func() error) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		begun := time.Now()
		err := f()
		return time.Since(begun), err
	}
}

const block, uncounted = 10, 2

// interleave takes at least n launches of each row, in turn, and returns the
// medians.
func interleave(rows []row, n int, pause time.Duration) ([]time.Duration, error) {
	all := make([][]time.Duration, len(rows))
	size, skip := block, uncounted
	if pause > 0 {
		size, skip = 1, 0
	}
	for i := 0; len(all[0]) < n; i++ {
		for k := range rows {
			// Another first one each round.
			r := (k + i) % len(rows)
			for b := range size {
				if pause > 0 {
					<-time.After(pause)
				}
				d, err := rows[r].once()
				if err != nil {
					return nil, fmt.Errorf("%s: %w", rows[r].name, err)
				}
				if b >= skip {
					all[r] = append(all[r], d)
				}
			}
		}
	}
	out := make([]time.Duration, len(rows))
	for i, d := range all {
		slices.Sort(d)
		out[i] = d[len(d)/2]
	}
	return out, nil
}

// cProgram is one of the C programs, or a host program of this one's code: it
// launches once for each byte it reads.
type cProgram struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startC(path string, args ...string) (*cProgram, error) {
	p := &cProgram{cmd: exec.Command(path, args...)}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	p.cmd.Stderr = os.Stderr
	return p, p.cmd.Start()
}

func (p *cProgram) once() (time.Duration, error) {
	if _, err := p.in.Write([]byte{'x'}); err != nil {
		return 0, err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return 0, errors.New(strings.TrimSpace(line))
	}
	return time.Duration(n), nil
}

func (p *cProgram) close() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }

// buildC compiles the C programs into a folder that everybody may enter.
func buildC() (string, error) {
	dir, err := os.MkdirTemp("", "inlay-bench-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	for name, flags := range map[string][]string{"true": {"-nostdlib"}, "base": nil, "floor": nil, "group": nil, "job": nil} {
		args := append([]string{"-O2", "-static", "-o", filepath.Join(dir, name), filepath.Join(*sources, name+".c")}, flags...)
		if out, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
			return dir, fmt.Errorf("cc %s: %w: %s", name, err, out)
		}
	}
	return dir, nil
}

func run(opts ...container.Option) error {
	res, err := container.Run(context.Background(), opts...)
	if err != nil {
		return err
	}
	return res.Err()
}

func execIn(c *container.Container, opts ...container.JobOption) error {
	p, err := c.Exec(context.Background(), opts...)
	if err != nil {
		return err
	}
	res, err := p.Wait(context.Background())
	if err != nil {
		return err
	}
	return res.Err()
}

// A kind is how often, and how far apart, rows are taken.
type kind struct {
	name  string
	n     int
	pause time.Duration
}

func kinds() []kind {
	return []kind{{"back to back", *rounds, 0}, {"150 ms apart", *spaced, 150 * time.Millisecond}}
}

// ratio prints the ratio of two medians, with its goal if there is one.
func ratio(m []time.Duration, what string, a, b int, most float64) {
	goal := ""
	if most > 0 {
		goal = fmt.Sprintf(" (at most %.3g)", most)
	}
	fmt.Printf("  %-42s %5.2f%s\n", what, float64(m[a])/float64(m[b]), goal)
}

// launch compares the ways to run one program.
func launch() (err error) {
	dir, err := buildC()
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err != nil {
		return err
	}
	tiny := filepath.Join(dir, "true")
	base, err := startC(filepath.Join(dir, "base"), tiny)
	if err != nil {
		return err
	}
	floor, err := startC(filepath.Join(dir, "floor"), "-f", tiny)
	if err != nil {
		return err
	}
	show := container.WithMounts(rootfs.Bind(dir, "/run/job", rootfs.ReadOnly()))
	warm, err := container.New(show)
	if err != nil {
		return err
	}
	if err := warm.Start(context.Background()); err != nil {
		return err
	}
	rows := []row{
		{"base, tiny static", base.once},
		{"floor, tiny static", floor.once},
		{"os/exec, tiny static", timed(func() error { return exec.Command(tiny).Run() })},
		{"os/exec, /bin/true", timed(func() error { return exec.Command("/bin/true").Run() })},
		{"Run, tiny static", timed(func() error { return run(show, container.WithCommand("/run/job/true")) })},
		{"Run, /bin/true", timed(func() error { return run(container.WithCommand("/bin/true")) })},
		{"Exec, tiny static", timed(func() error { return execIn(warm, container.WithCommand("/run/job/true")) })},
		{"Exec, /bin/true", timed(func() error { return execIn(warm, container.WithCommand("/bin/true")) })},
	}
	for _, kind := range kinds() {
		m, err := interleave(rows, kind.n, kind.pause)
		if err != nil {
			return err
		}
		fmt.Printf("launch, %s, medians of %d\n", kind.name, kind.n)
		for i, r := range rows {
			fmt.Printf("  %-22s %8.3f ms\n", r.name, float64(m[i])/1e6)
		}
		ratio(m, "Run to floor, tiny static", 4, 1, 1.7)
		ratio(m, "Run to os/exec, /bin/true", 5, 3, 4)
		ratio(m, "Exec to os/exec, tiny static", 6, 2, 1.8)
		ratio(m, "Exec to os/exec, /bin/true", 7, 3, 1.8)
	}
	return errors.Join(warm.Close(), base.close(), floor.close())
}

// hostSize compares a small host program with one that has a large heap, and one
// that has many open files.
func hostSize() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	var rows []row
	var hosts []*cProgram
	for _, kind := range []string{"small", "1 GiB of touched heap", "10,000 open files"} {
		h, err := startC(exe, "serve", kind)
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
		rows = append(rows, row{kind, h.once})
	}
	if _, err := interleave(rows, 10, 0); err != nil { // warm
		return err
	}
	m, err := interleave(rows, *rounds, 0)
	if err != nil {
		return err
	}
	fmt.Printf("host program, Run of /bin/true, medians of %d\n", *rounds)
	for i, r := range rows {
		fmt.Printf("  %-22s %8.3f ms, ratio %.2f (at most 1.05)\n", r.name, float64(m[i])/1e6, float64(m[i])/float64(m[0]))
	}
	for _, h := range hosts {
		err = errors.Join(err, h.close())
	}
	return err
}

// serve is a host program of that size: it runs a container for each byte it
// reads.
func serve(kind string) error {
	var heap []byte
	var files []*os.File
	switch kind {
	case "1 GiB of touched heap":
		heap = make([]byte, 1<<30)
		for i := 0; i < len(heap); i += 4096 {
			heap[i] = 1
		}
	case "10,000 open files":
		for range 10000 {
			f, err := os.Open("/dev/null")
			if err != nil {
				return err
			}
			files = append(files, f)
		}
	case formSmall, formWhole:
		if kind == formWhole {
			launcher.KeepWhole()
		}
		if err := remain(); err != nil {
			return err
		}
	case "resident":
		for range *resident {
			c, err := container.New()
			if err == nil {
				err = c.Start(context.Background())
			}
			if err != nil {
				return err
			}
		}
	}
	once := timed(func() error { return run(container.WithCommand("/bin/true")) })
	b := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(b); err != nil {
			runtime.KeepAlive(heap)
			runtime.KeepAlive(files)
			return nil // the end
		}
		d, err := once()
		if err != nil {
			return err
		}
		fmt.Println(d.Nanoseconds())
	}
}

// killed measures how long after the end of a host program by SIGKILL its
// containers are gone.
func killed() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	h, err := startC(exe, "-resident", strconv.Itoa(*resident), "serve", "resident")
	if err != nil {
		return err
	}
	if _, err := h.once(); err != nil { // all are there
		return err
	}
	all, err := below(h.cmd.Process.Pid)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := h.cmd.Process.Kill(); err != nil {
		return err
	}
	for _, fd := range all {
		for {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	fmt.Printf("  %d processes gone %.0f ms after the host's SIGKILL (at most 300)\n", len(all), time.Since(begun).Seconds()*1e3)
	_ = h.close() // killed: that is what it says
	return nil
}

// below opens a pidfd of every process below one.
func below(pid int) (all []int, err error) {
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", todo[0]))
		if err != nil {
			return nil, err
		}
		for _, t := range tasks {
			text, err := os.ReadFile(t)
			if err != nil {
				continue // a thread that has ended
			}
			for _, f := range strings.Fields(string(text)) {
				child, err := strconv.Atoi(f)
				if err != nil {
					return nil, err
				}
				if fd, err := unix.PidfdOpen(child, 0); err == nil { // else it has ended
					all, todo = append(all, fd), append(todo, child)
				}
			}
		}
	}
	return all, nil
}

// residents starts many containers at once.
func residents() error {
	before := heapInUse()
	var list []*container.Container
	begun := time.Now()
	for range *resident {
		c, err := container.New()
		if err != nil {
			return err
		}
		if err := c.Start(context.Background()); err != nil {
			return err
		}
		list = append(list, c)
	}
	started := time.Since(begun)
	after := heapInUse()
	private := 0
	for _, c := range list[len(list)-10:] {
		kib, err := privateKiB(c.PID())
		if err != nil {
			return err
		}
		private += kib
	}
	begun = time.Now()
	var errs error
	for _, c := range list {
		errs = errors.Join(errs, c.Close())
	}
	n := float64(len(list))
	fmt.Printf("%d resident\n  start %.2f ms each, close %.2f ms each\n", len(list), started.Seconds()*1e3/n, time.Since(begun).Seconds()*1e3/n)
	fmt.Printf("  private %d KiB each (at most 64), host heap %.1f KiB each (at most 12)\n", private/10, float64(after-before)/1024/n)
	return errors.Join(errs, killed())
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// privateKiB is what a process has of its own, by /proc/PID/smaps_rollup.
func privateKiB(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	total := 0
	for _, l := range strings.Split(string(text), "\n") {
		f := strings.Fields(l)
		if len(f) >= 2 && (f[0] == "Private_Dirty:" || f[0] == "Private_Clean:") {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}

// imports measures the init of all that importing container brings.
func imports() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	var worst, sum []float64
	for range 20 {
		cmd := exec.Command(exe, "-rounds", "0", "nothing")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		out, _ := cmd.CombinedOutput() // "nothing" is no part: it exits with 2
		total, most := 0.0, 0.0
		for _, l := range strings.Split(string(out), "\n") {
			f := strings.Fields(l)
			if len(f) > 5 && f[0] == "init" {
				ms, err := strconv.ParseFloat(f[4], 64)
				if err != nil {
					return err
				}
				total += ms
				most = max(most, ms)
			}
		}
		sum, worst = append(sum, total), append(worst, most)
	}
	slices.Sort(sum)
	slices.Sort(worst)
	fmt.Printf("import: all package inits of this program %.3f ms, the slowest %.3f ms (medians of 20; at most 1)\n", sum[10], worst[10])
	return nil
}
