// Command run runs a program in a container, with Docker's flags:
//
//	go run ./examples/run [flags] -- command args…
//
// Exit codes: the program's own; 128 and a signal's number; 127 not found, 126
// not executable, 125 where inlay could not do what was asked.
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
	"strings"
	"syscall"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/security"
)

func main() {
	// The first ends the container; a second this program, and the launcher the rest.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 125
	}
	if errors.Is(err, container.ErrNotFound) {
		code = 127
	} else if errors.Is(err, container.ErrNotExecutable) {
		code = 126
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (code int, err error) {
	var opts []container.Option
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	f.SetOutput(io.Discard) // main prints what is wrong
	add := func(names, usage string, option func(value string) (container.Option, error)) {
		for _, name := range strings.Fields(names) {
			f.Func(name, usage, func(value string) error {
				o, err := option(value)
				opts = append(opts, o)
				return err
			})
		}
	}
	explain := f.Bool("explain", false, "print what would be done, and do nothing")
	trace := f.Bool("trace", false, "print what was done to start it, each step with its time")
	probe := f.Bool("probe", false, "print whether this host can do it, and run nothing")
	result := f.String("result", "", "write the result to the new `FILE`, as JSON")
	rootPath := f.String("rootfs", "", "`DIR` as the root, or a tar archive; what the program changes stays in memory. Without it the host's /usr")
	readOnly := f.Bool("read-only", false, "keep the program from writing to the root of --rootfs; the host's is read-only anyway")
	changes := f.Bool("changes", false, "print what was changed in the DIR of --rootfs, as docker diff does")
	add("volume v", "show `SRC:DST[:ro]` of the host; repeatable", volume)
	add("tmpfs", "a memory file system on `DST[:size=N]`, N with k, m or g; repeatable", tmpfs)
	add("device", "show the device `SRC[:DST][:rwm]` of the host; repeatable", device)
	add("user u", "run as `USER[:GROUP]`, ids or names of the container's own", func(v string) (container.Option, error) { return container.WithUser(v), nil })
	add("group-add", "be in `GROUP` too, an id or a name; repeatable", func(v string) (container.Option, error) { return container.WithGroups(v), nil })
	add("workdir w", "run in the folder `DIR`", func(v string) (container.Option, error) { return container.WithDir(v), nil })
	add("env e", "set `K=V`; repeatable", func(v string) (container.Option, error) { return container.WithEnv(v), nil })
	add("hostname", "the container's `NAME` for itself", func(v string) (container.Option, error) { return container.WithHostname(v), nil })
	add("domainname", "its NIS domain `NAME`", func(v string) (container.Option, error) { return container.WithDomainname(v), nil })
	add("sysctl", "set `NAME=VALUE` in the container's namespaces; repeatable", sysctl)
	add("cap-add", "give the capability `CAP`; repeatable", func(v string) (container.Option, error) { return container.WithCapabilities(v), nil })
	add("security-opt", "`seccomp=FILE`, an OCI profile, or seccomp=strict or seccomp=unconfined", securityOpt)
	add("ulimit", "set the limit `name=soft[:hard]` of setrlimit(2), -1 is none; repeatable", ulimit)
	add("time-limit", "kill the program after `DUR`, as 1.5s", func(v string) (container.Option, error) {
		d, err := time.ParseDuration(v)
		return container.WithTimeLimit(d), err
	})
	var input, tty bool
	both := func(string) error { input, tty = true, true; return nil }
	for _, name := range []string{"i", "interactive"} {
		f.BoolVar(&input, name, false, "with -t: type what stdin gives into the job's terminal; without, stdin is the job's in any case")
	}
	for _, name := range []string{"t", "tty"} {
		f.BoolVar(&tty, name, false, "give the program a terminal")
	}
	f.BoolFunc("it", "-i and -t", both)
	f.BoolFunc("ti", "-i and -t", both)
	var mode string
	limits, namespaces := limitFlags(f, add), namespaceFlags(f, &mode)
	connect := networkFlags(f, &mode)
	stats := f.Bool("stats", false, "print what is used: a line on the terminal while it runs, and the last figures")

	err = f.Parse(args)
	limit, err2 := limits()
	if err == nil {
		err = err2
	}
	if *rootPath != "" && err == nil {
		var o container.Option
		o, err = root(*rootPath, *readOnly)
		opts = append(opts, o)
	}
	opts = append(append(opts, limit...), namespaces()...)
	link, err2 := connect()
	if err == nil {
		err = err2
	}
	opts = append(opts, link...)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println("usage: run [flags] -- command args…")
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
		return 0, nil
	case err != nil:
	case *changes && (*stats || tty):
		err = errors.New("--changes beside --stats or -t: both write to the terminal")
	case *stats && tty:
		err = errors.New("--stats and -t: both write to the terminal")
	}
	if command := f.Args(); len(command) > 0 {
		opts = append(opts, container.WithCommand(command[0], command[1:]...), container.WithStdout(os.Stdout))
		if !tty || input {
			opts = append(opts, container.WithStdin(os.Stdin))
		}
		if tty {
			opts = append(opts, container.WithTerminal(0, 0))
		} else {
			opts = append(opts, container.WithStderr(os.Stderr))
		}
	} else if err == nil && !*probe {
		err = errors.New("no command")
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("inlay: %w (see --help)", err)
	case *explain:
		c, err := container.New(opts...)
		if err == nil {
			err = errors.Join(c.Explain(os.Stdout), c.Close())
		}
		return 0, err
	case *probe:
		report, err := container.Probe(ctx, opts...)
		if err == nil {
			_, err = report.WriteTo(os.Stdout)
		}
		if err == nil && !report.OK() {
			err = errors.New("inlay: this host cannot do what is asked: see above")
		}
		return 0, err
	}
	how := container.Run
	if *stats {
		how = watched
	}
	if *trace {
		opts = append(opts, container.WithTrace())
	}
	if *trace || *changes {
		how = told(*changes)
	}
	if tty {
		how = attached(input)
	}
	return start(ctx, *result, how, opts)
}

// start runs the container and writes its Result to the file, if one is named.
func start(ctx context.Context, file string, run func(context.Context, ...container.Option) (*container.Result, error), opts []container.Option) (int, error) {
	report := os.Stdout
	if file != "" {
		// New: it may lie in a volume, where an earlier job could have put a link.
		var err error
		if report, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return 0, fmt.Errorf("inlay: --result: %w", err)
		}
	}
	res, err := run(ctx, opts...)
	switch {
	case err != nil && file != "":
		return 0, errors.Join(err, report.Close(), os.Remove(file))
	case file != "":
		err = errors.Join(json.NewEncoder(report).Encode(res), report.Close())
	}
	if err != nil {
		return 0, err
	}
	if res.Status != container.Exited && res.Status != container.Signaled {
		fmt.Fprintln(os.Stderr, "inlay:", res) // not the job's own doing
	}
	return res.ShellCode(), nil
}

// told runs a container and prints to the standard error what was done to start it,
// and what was changed, as far as that was asked for.
func told(changes bool) func(ctx context.Context, opts ...container.Option) (*container.Result, error) {
	return func(ctx context.Context, opts ...container.Option) (res *container.Result, err error) {
		c, err := container.New(opts...)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		err = c.Start(ctx)
		printTrace(c)
		if err != nil {
			return nil, err
		}
		defer context.AfterFunc(ctx, func() { _ = c.Kill() })() // it has ended: then that is that
		if res, err = c.Wait(context.WithoutCancel(ctx)); err != nil || !changes {
			return res, err
		}
		for ch, err := range c.Changes() {
			if err != nil {
				return nil, fmt.Errorf("inlay: --changes: %w", err)
			}
			fmt.Fprintln(os.Stderr, ch)
		}
		return res, nil
	}
}

func printTrace(c *container.Container) {
	for _, s := range c.Trace() { // none without the option
		fmt.Fprintln(os.Stderr, s)
	}
}

// securityOpt is Docker's --security-opt, of which seccomp is known here.
func securityOpt(v string) (container.Option, error) {
	file, ok := strings.CutPrefix(v, "seccomp=")
	switch {
	case !ok:
		return nil, errors.New("not seccomp=FILE or seccomp=unconfined")
	case file == "unconfined":
		return container.WithSeccomp(security.Unconfined()), nil
	case file == "strict":
		return container.WithSeccomp(security.Strict()), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	profile, err := security.ParseSeccomp(text)
	if err != nil {
		return nil, err
	}
	return container.WithSeccomp(profile), nil
}
