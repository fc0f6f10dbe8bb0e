// Command limits drives each limit into action and prints what was asked for,
// what was measured, and the verdict:
//
//	go run ./examples/limits
//
// What this host cannot keep is printed with the reason.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

// trial is one limit and a job that meets it.
type trial struct {
	name     string
	job      []string // of this program: see work
	asked    string
	limit    container.Option
	measured func(*container.Result, string) string
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "work" {
		os.Exit(work(os.Args[2], os.Args[3:]))
	}
	if err := show(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
}

// show runs all trials and prints the table.
func show(ctx context.Context, w io.Writer) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/var/tmp", "inlay-limits-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...any) { _, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", cells...) } // Flush tells
	row("LIMIT", "ASKED", "MEASURED", "VERDICT")
	for _, t := range trials(dir) {
		var out strings.Builder
		res, err := container.Run(ctx, container.WithMounts(rootfs.Bind(exe, "/run/limits", rootfs.ReadOnly()), rootfs.Bind(dir, "/data")),
			container.WithCommand("/run/limits", append([]string{"work"}, t.job...)...), container.WithEnv("GOMAXPROCS=2"),
			container.WithOutputLimit(1*container.MiB), t.limit, container.WithStdout(&out))
		var lacking *container.LimitError
		switch {
		case errors.As(err, &lacking):
			row(t.name, t.asked, "-", "not kept here: "+lacking.Reason)
		case err != nil:
			return fmt.Errorf("%s: %w", t.name, err)
		default:
			verdict := res.Status.String()
			if res.Status == container.Exited {
				verdict = fmt.Sprintf("%s %d", verdict, res.ExitCode)
			}
			row(t.name, t.asked, t.measured(res, out.String()), strings.Join(append([]string{verdict}, res.Notes...), "; "))
		}
	}
	return table.Flush()
}

func trials(dir string) []trial {
	mib := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/float64(container.MiB)) }
	peak := func(r *container.Result, _ string) string { return mib(r.MemoryPeak) + " by " + r.MemorySource }
	wall := func(r *container.Result, _ string) string { return r.WallTime.Round(time.Millisecond).String() }
	said := func(_ *container.Result, out string) string { return strings.TrimSpace(out) }
	return []trial{
		{"memory, allocated", []string{"touch", "64"}, "32 MiB", container.WithMemoryLimit(32 * container.MiB), peak},
		{"memory, page cache", []string{"write", "64"}, "32 MiB", container.WithMemoryLimit(32 * container.MiB), peak},
		{"processes", []string{"fork", "100"}, "20", container.WithPidsLimit(20), said},
		{
			"processors",
			[]string{"spin", "2s"},
			"0.25", container.WithCPULimit(0.25),
			func(r *container.Result, _ string) string {
				return fmt.Sprintf("%.3f", r.CPUTime().Seconds()/r.WallTime.Seconds())
			},
		},
		{"processors by number", []string{"where"}, "0", container.WithCPUSet("0"), said},
		{"disk, written directly", []string{"direct", "8"}, "4 MiB/s", container.WithIOLimit(cgroup.IOLimit{Device: dir, WriteBPS: 4 * container.MiB}), said},
		{"memory file system", []string{"fill", "/small/file"}, "1 MiB", container.WithMounts(rootfs.Tmpfs("/small", rootfs.Size(container.MiB))), said},
		{"stack", []string{"recurse"}, "256 KiB", container.WithStackLimit(256 * container.KiB), func(r *container.Result, _ string) string { return r.Signal.String() }},
		{"wall time", []string{"sleep", "10s"}, "300ms", container.WithTimeLimit(300 * time.Millisecond), wall},
		{
			"processor time",
			[]string{"spin", "10s"},
			"300ms", container.WithCPUTimeLimit(300 * time.Millisecond),
			func(r *container.Result, _ string) string { return r.CPUTime().Round(time.Millisecond).String() },
		},
		{"idleness", []string{"sleep", "10s"}, "300ms", container.WithIdleLimit(300 * time.Millisecond), wall},
		{
			"output",
			[]string{"flood"},
			"10000 bytes", container.WithOutputLimit(10000),
			func(r *container.Result, _ string) string { return fmt.Sprintf("%d bytes", r.StdoutBytes) },
		},
	}
}

// work is what the jobs do.
func work(what string, args []string) int {
	number := func() int {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			panic(err)
		}
		return n
	}
	duration := func() time.Duration {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			panic(err)
		}
		return d
	}
	switch what {
	case "touch":
		memory := make([]byte, number()<<20)
		for i := 0; i < len(memory); i += 4096 {
			memory[i] = 1
		}
	case "write", "direct":
		return write(what == "direct", number())
	case "fork":
		n := 0
		for range number() {
			if exec.Command("/bin/sleep", "100").Start() != nil {
				break
			}
			n++
		}
		fmt.Println(n, "children")
	case "where":
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return 1
		}
		_, list, _ := strings.Cut(string(status), "Cpus_allowed_list:")
		fmt.Println("on", strings.Fields(list)[0])
	case "fill":
		f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return 1
		}
		n := 0
		for err == nil {
			var more int
			more, err = f.Write(make([]byte, 4096))
			n += more
		}
		fmt.Println(n, "bytes, then:", errors.Unwrap(err))
	case "recurse": // a Go program's stacks are none of the kernel's
		shell := exec.Command("/bin/sh", "-c", "f() { f; }; f")
		if err := syscall.Exec(shell.Path, shell.Args, os.Environ()); err != nil {
			return 1
		}
	case "spin":
		for end := time.Now().Add(duration()); time.Now().Before(end); {
		}
	case "sleep":
		<-time.After(duration())
	case "flood":
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 99) + "\n"); err != nil {
				return 1
			}
		}
	}
	return 0
}
