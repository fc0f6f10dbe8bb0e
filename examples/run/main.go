// Command run runs a program in a container, with Docker's flags:
//
//	go run ./examples/run [flags] -- command args…
//
// It exits with the program's own code, 128 and the number of the signal that
// killed it, 127 for a command that is not there, 126 for one that cannot be
// executed, and 125 where inlay could not do what was asked.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

// Exit codes as Docker's.
const (
	exitInlay         = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

func main() {
	// The first ends the container; a second this program, and the launcher the rest.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	r := request{flags: flag.NewFlagSet("run", flag.ContinueOnError)}
	r.define()
	switch err := r.parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0, nil
	case err != nil:
		return exitInlay, fmt.Errorf("inlay: %w (see --help)", err)
	}
	var err error
	switch {
	case r.explain:
		err = explain(r.opts)
	case r.probe:
		err = probe(ctx, r.opts)
	default:
		return r.run(ctx)
	}
	if err != nil {
		return exitInlay, err
	}
	return 0, nil
}

func (r *request) run(ctx context.Context) (code int, err error) {
	var report *os.File
	if r.result != "" {
		// Before the job runs, and new: it may lie in a volume, where an earlier job
		// could have put a link.
		if report, err = os.OpenFile(r.result, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return exitInlay, fmt.Errorf("inlay: --result: %w", err)
		}
	}
	res, err := container.Run(ctx, r.opts...)
	if err != nil {
		if report != nil {
			err = errors.Join(err, report.Close(), os.Remove(r.result))
		}
		switch {
		case errors.Is(err, container.ErrNotFound):
			return exitNotFound, err
		case errors.Is(err, container.ErrNotExecutable):
			return exitNotExecutable, err
		}
		return exitInlay, err
	}
	if res.Status != container.Exited && res.Status != container.Signaled {
		fmt.Fprintln(os.Stderr, "inlay:", res) // not the job's own doing
	}
	if report != nil {
		if err := errors.Join(json.NewEncoder(report).Encode(res), report.Close()); err != nil {
			return exitInlay, fmt.Errorf("inlay: --result: %w", err)
		}
	}
	return res.ShellCode(), nil
}

func explain(opts []container.Option) error {
	c, err := container.New(opts...)
	if err != nil {
		return err
	}
	return errors.Join(c.Explain(os.Stdout), c.Close())
}

func probe(ctx context.Context, opts []container.Option) error {
	report, err := container.Probe(ctx, opts...)
	if err != nil {
		return err
	}
	if _, err := report.WriteTo(os.Stdout); err != nil {
		return err
	}
	if !report.OK() {
		return errors.New("inlay: this host cannot do what is asked: see above")
	}
	return nil
}

// request is what the command line asks for.
type request struct {
	flags          *flag.FlagSet
	opts           []container.Option
	network        container.Option // nil for none, as it is without
	memory, both   int64            // Docker's --memory and --memory-swap, which is the sum with swap
	explain, probe bool
	result         string
}

// add defines a flag that becomes an option, under one name or two.
func (r *request) add(names, usage string, option func(value string) (container.Option, error)) {
	for _, name := range strings.Fields(names) {
		r.flags.Func(name, usage, func(value string) error {
			o, err := option(value)
			r.opts = append(r.opts, o)
			return err
		})
	}
}

func (r *request) define() {
	f := r.flags
	f.SetOutput(io.Discard) // main prints what is wrong, parse what --help asks for
	f.BoolVar(&r.explain, "explain", false, "print what would be done, and do nothing")
	f.BoolVar(&r.probe, "probe", false, "print whether this host can do it, and run nothing")
	f.StringVar(&r.result, "result", "", "write the result to the new `FILE`, as JSON")
	r.add("rootfs", "`DIR` as the root, read-only; without it the host's /usr", func(v string) (container.Option, error) {
		dir, err := filepath.Abs(v)
		return container.WithRoot(rootfs.Dir(dir)), err
	})
	r.add("volume v", "show `SRC:DST[:ro]` of the host; repeatable", volume)
	r.add("tmpfs", "a memory file system on `DST[:size=N]`, N with k, m or g; repeatable", tmpfs)
	r.add("user u", "run as `UID[:GID]`; the group is 0 without", user)
	r.add("workdir w", "run in the folder `DIR`", func(v string) (container.Option, error) { return container.WithDir(v), nil })
	r.add("env e", "set `K=V`; repeatable", func(v string) (container.Option, error) { return container.WithEnv(v), nil })
	r.add("hostname", "the container's `NAME` for itself", func(v string) (container.Option, error) { return container.WithHostname(v), nil })
	f.Func("network", "`none` or host", r.setNetwork)
	r.add("cap-add", "give the capability `CAP`, or ALL; repeatable", capability)
	r.add("ulimit", "set the limit `name=soft[:hard]` of setrlimit(2), -1 is none; repeatable", ulimit)
	r.add("time-limit", "kill the program after `DUR`, as 1.5s", parsed(time.ParseDuration, container.WithTimeLimit))
	r.add("cpus", "cap processor time at `N` processors", parsed(float, container.WithCPULimit))
	r.add("cpuset-cpus", "use the processors `LIST` alone", func(v string) (container.Option, error) { return container.WithCPUSet(v), nil })
	r.add("pids-limit", "cap processes and threads at `N`", parsed(integer, container.WithPidsLimit))
	r.defineMemory()
	later := func(string) error { return errors.New("not in this version") }
	for _, name := range []string{"device", "device-write-bps", "dns", "pid", "publish", "sysctl"} {
		f.Func(name, "not in this version", later)
	}
	f.BoolFunc("it", "not in this version", later)
}

func (r *request) parse(args []string) error {
	if err := r.flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Println("usage: run [flags] -- command args…")
			r.flags.SetOutput(os.Stdout)
			r.flags.PrintDefaults()
		}
		return err
	}
	if r.network != nil {
		r.opts = append(r.opts, r.network)
	}
	if err := r.checkMemory(); err != nil {
		return err
	}
	if command := r.flags.Args(); len(command) > 0 {
		r.opts = append(r.opts, container.WithCommand(command[0], command[1:]...),
			container.WithStdin(os.Stdin), container.WithStdout(os.Stdout), container.WithStderr(os.Stderr))
	} else if !r.probe {
		return errors.New("no command")
	}
	return nil
}
