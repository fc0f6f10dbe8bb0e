package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
)

// limitFlags adds the flags of limits; what it returns gives the options that
// need more than one of them, once they are parsed.
func limitFlags(f *flag.FlagSet, add func(names, usage string, option func(string) (container.Option, error))) func() ([]container.Option, error) {
	memory, both := "", ""
	f.StringVar(&memory, "memory", "", "at most `N` bytes of memory, with k, m or g")
	f.StringVar(&memory, "m", "", "`N`: as --memory")
	f.StringVar(&both, "memory-swap", "", "at most `N` bytes of memory and swap together; -1 is no limit of swap; without, there is no swap")
	number := func(v string, unlimited uint64) (uint64, error) {
		if v == "-1" && unlimited > 0 {
			return unlimited, nil
		}
		return strconv.ParseUint(v, 10, 63)
	}
	add("cpus", "at most `N` processors' time, as 1.5", func(v string) (container.Option, error) {
		n, err := strconv.ParseFloat(v, 64)
		return container.WithCPULimit(n), err
	})
	add("cpu-shares", "weight `N` against others; 1024 is the ordinary one", func(v string) (container.Option, error) {
		n, err := number(v, 0)
		n = min(n, 1<<18) // the kernel takes no more
		return container.WithCPUWeight(min(10000, max(1, (n*100+512)/1024))), err
	})
	add("cpuset-cpus", "only the processors of `LIST`, as 0-2,7", func(v string) (container.Option, error) { return container.WithCPUSet(v), nil })
	add("pids-limit", "at most `N` processes and threads; -1 is as many as the kernel has", func(v string) (container.Option, error) {
		const most = 4 << 20 // PID_MAX_LIMIT
		n, err := number(v, most)
		return container.WithPidsLimit(int64(n)), err
	})
	for name, set := range map[string]func(*cgroup.IOLimit, int64){
		"device-read-bps":   func(l *cgroup.IOLimit, n int64) { l.ReadBPS = n },
		"device-write-bps":  func(l *cgroup.IOLimit, n int64) { l.WriteBPS = n },
		"device-read-iops":  func(l *cgroup.IOLimit, n int64) { l.ReadIOPS = n },
		"device-write-iops": func(l *cgroup.IOLimit, n int64) { l.WriteIOPS = n },
	} {
		unit := "bytes, with k, m or g,"
		if strings.HasSuffix(name, "iops") {
			unit = "operations"
		}
		add(name, "at most N "+unit+" a second, `DEV:N`; DEV is a disk, or any path on its file system; repeatable", func(v string) (container.Option, error) {
			i := strings.LastIndexByte(v, ':')
			if i < 1 {
				return nil, errors.New("not DEV:N")
			}
			n, err := size(v[i+1:])
			l := cgroup.IOLimit{Device: v[:i]}
			set(&l, n)
			return container.WithIOLimit(l), err
		})
	}
	add("cpu-time-limit", "kill the program after `DUR` of processor time, all its processes together", func(v string) (container.Option, error) {
		d, err := time.ParseDuration(v)
		return container.WithCPUTimeLimit(d), err
	})
	add("output-limit", "kill the program after `N` bytes of output, with k, m or g", func(v string) (container.Option, error) {
		n, err := size(v)
		return container.WithOutputLimit(n), err
	})
	return func() ([]container.Option, error) { return memoryOptions(memory, both) }
}

// memoryOptions takes Docker's sum of memory and swap apart.
func memoryOptions(memory, both string) ([]container.Option, error) {
	if memory == "" {
		if both != "" {
			return nil, errors.New("--memory-swap needs --memory")
		}
		return nil, nil
	}
	n, err := size(memory)
	if err != nil {
		return nil, fmt.Errorf("--memory %s: %w", memory, err)
	}
	opts := []container.Option{container.WithMemoryLimit(n)}
	switch both {
	case "":
	case "-1":
		opts = append(opts, container.WithSwapLimit(math.MaxInt64-n))
	default:
		sum, err := size(both)
		if err == nil && sum < n {
			err = errors.New("below --memory: it is the sum of both")
		}
		if err != nil {
			return nil, fmt.Errorf("--memory-swap %s: %w", both, err)
		}
		opts = append(opts, container.WithSwapLimit(sum-n))
	}
	return opts, nil
}

// watched is container.Run with a line of figures.
func watched(ctx context.Context, opts ...container.Option) (*container.Result, error) {
	c, err := container.New(opts...)
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	printTrace(c)
	defer context.AfterFunc(ctx, func() { _ = c.Kill() })() // it may have ended: then that is that
	info, err := os.Stderr.Stat()
	live := err == nil && info.Mode()&os.ModeCharDevice != 0
	for s, err := range c.Watch(context.Background(), time.Second/2) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "inlay: --stats:", err)
			break
		}
		if live {
			fmt.Fprint(os.Stderr, "\r\x1b[K", figures(s))
		}
	}
	res, err := c.Wait(context.Background())
	if s, err := c.Stats(context.Background()); err == nil {
		if live {
			fmt.Fprint(os.Stderr, "\r\x1b[K")
		}
		fmt.Fprintln(os.Stderr, figures(s))
	}
	return res, errors.Join(err, c.Close())
}

// figures is one line; what the host cannot tell is not in it.
func figures(s *container.Stats) string {
	line := "cpu " + s.CPU.Total.Round(time.Millisecond).String()
	for _, f := range []struct {
		name string
		n    int64
	}{{"memory", s.Memory.Now}, {"peak", s.Memory.Peak}} {
		if f.n != container.Absent {
			line += fmt.Sprintf("  %s %.1f MiB", f.name, float64(f.n)/float64(container.MiB))
		}
	}
	if s.Pids.Now != container.Absent {
		line += fmt.Sprintf("  processes %d", s.Pids.Now)
	}
	for _, d := range s.IO {
		line += fmt.Sprintf("  %s read %.1f MiB, written %.1f MiB", d.Device, float64(d.ReadBytes)/float64(container.MiB), float64(d.WriteBytes)/float64(container.MiB))
	}
	return line
}
