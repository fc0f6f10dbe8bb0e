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
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
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
	probe := f.Bool("probe", false, "print whether this host can do it, and run nothing")
	result := f.String("result", "", "write the result to the new `FILE`, as JSON")
	network := f.String("network", "none", "`none` or host")
	add("rootfs", "`DIR` as the root, read-only; without it the host's /usr", func(v string) (container.Option, error) {
		dir, err := filepath.Abs(v)
		return container.WithRoot(rootfs.Dir(dir)), err
	})
	add("volume v", "show `SRC:DST[:ro]` of the host; repeatable", volume)
	add("tmpfs", "a memory file system on `DST[:size=N]`, N with k, m or g; repeatable", tmpfs)
	add("user u", "run as `UID[:GID]`; the group is 0 without", user)
	add("workdir w", "run in the folder `DIR`", func(v string) (container.Option, error) { return container.WithDir(v), nil })
	add("env e", "set `K=V`; repeatable", func(v string) (container.Option, error) { return container.WithEnv(v), nil })
	add("hostname", "the container's `NAME` for itself", func(v string) (container.Option, error) { return container.WithHostname(v), nil })
	add("cap-add", "give the capability `CAP`; repeatable", func(v string) (container.Option, error) { return container.WithCapabilities(v), nil })
	add("security-opt", "`seccomp=FILE`, an OCI profile, or seccomp=strict or seccomp=unconfined", securityOpt)
	add("ulimit", "set the limit `name=soft[:hard]` of setrlimit(2), -1 is none; repeatable", ulimit)
	add("time-limit", "kill the program after `DUR`, as 1.5s", func(v string) (container.Option, error) {
		d, err := time.ParseDuration(v)
		return container.WithTimeLimit(d), err
	})
	limits := limitFlags(f, add)
	stats := f.Bool("stats", false, "print what is used: a line on the terminal while it runs, and the last figures")
	later := func(string) error { return errors.New("not in this version") }
	for _, name := range strings.Fields("device dns it pid publish sysctl") {
		f.Func(name, "not in this version", later)
	}

	err = f.Parse(args)
	limit, err2 := limits()
	if err == nil {
		err = err2
	}
	opts = append(opts, limit...)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println("usage: run [flags] -- command args…")
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
		return 0, nil
	case err != nil:
	case *network == "host":
		opts = append(opts, container.WithHostNamespace(namespace.Network))
	case *network != "none":
		err = fmt.Errorf("--network %s: none and host are in this version", *network)
	}
	if command := f.Args(); len(command) > 0 {
		opts = append(opts, container.WithCommand(command[0], command[1:]...),
			container.WithStdin(os.Stdin), container.WithStdout(os.Stdout), container.WithStderr(os.Stderr))
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
	return start(ctx, *result, *stats, opts)
}

// start runs the container and writes its Result to the file, if one is named.
func start(ctx context.Context, file string, stats bool, opts []container.Option) (int, error) {
	report := os.Stdout
	if file != "" {
		// New: it may lie in a volume, where an earlier job could have put a link.
		var err error
		if report, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return 0, fmt.Errorf("inlay: --result: %w", err)
		}
	}
	run := container.Run
	if stats {
		run = watched
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
