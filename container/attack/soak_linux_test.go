package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// soaked is one thing that a busy host sees, once.
type soaked struct {
	name  string
	share int // of so many launches
	once  func(ctx context.Context, i int) error
}

// soakLaunches is how many launches TestSoak makes.
func soakLaunches(t *testing.T) int {
	t.Helper()
	if v := os.Getenv("INLAY_SOAK_LAUNCHES"); v != "" {
		n, err := strconv.Atoi(v)
		require.NoError(t, err)
		return n
	}
	if os.Getenv("INLAY_SOAK") != "" {
		return 200_000
	}
	return 600
}

// Launches, ends of all kinds, crashes and attacks, mixed, from several workers; and
// the launcher killed now and then. What host program and launcher have is the same
// at each look, from the first on.
func TestSoak(t *testing.T) {
	containertest.Census(t)
	containertest.Require(t, containertest.Containers)
	n := soakLaunches(t)
	s := newSoak(t)
	before, err := containertest.Take()
	require.NoError(t, err)
	const workers, looks = 4, 10
	var first, last vitals
	begun := time.Now()
	for look := range looks {
		s.open(t)
		var all sync.WaitGroup
		errs := make(chan error, workers)
		for worker := range workers {
			all.Go(func() {
				for i := look*n/looks + worker; i < (look+1)*n/looks; i += workers {
					k := s.kinds[s.turns[i%len(s.turns)]]
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					err := k.once(ctx, i)
					cancel()
					if err != nil {
						errs <- fmt.Errorf("launch %d, %s: %w", i, k.name, err)
						return
					}
				}
			})
		}
		all.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		require.NoError(t, s.warm.Close())
		left, err := containertest.Left(before)
		require.NoError(t, err)
		require.Empty(t, left)
		last = s.look(t)
		if look == 0 {
			first = last
		}
		t.Logf("%6d launches, %4.0f s: %v", (look+1)*n/looks, time.Since(begun).Seconds(), last)
		s.world.unharmed(t)
		if look == looks/2 {
			killLauncher(t)
		}
	}
	require.NoError(t, last.flat(first))
}

// soak is what the launches of TestSoak share.
type soak struct {
	world *world
	kinds []soaked
	turns []int // the kinds in their turn
	warm  *container.Container
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{world: newWorld(t)}
	p := attackPrograms(t)
	main := asMain(s.world, p)
	groups := containertest.Groups(t)
	memory := groups != nil && groups.Has("memory")
	s.kinds = []soaked{
		{"exit code", 24, func(ctx context.Context, i int) error {
			return ended(ctx, container.Exited, i%200, shell(fmt.Sprintf("exit %d", i%200)))
		}},
		{"Exec", 24, func(ctx context.Context, i int) error {
			var out strings.Builder
			j, err := s.warm.Exec(ctx, container.JobOptions(shell(fmt.Sprintf("echo %d; exit %d", i, i%200)), container.WithStdout(&out)))
			if err != nil {
				return err
			}
			res, err := j.Wait(ctx)
			if err == nil && (res.ExitCode != i%200 || out.String() != fmt.Sprintf("%d\n", i)) {
				err = fmt.Errorf("%v, %q", res, out.String())
			}
			return err
		}},
		{"crash", 10, func(ctx context.Context, _ int) error {
			return ended(ctx, container.Signaled, -1, shell("kill -SEGV $$"))
		}},
		{"time limit", 6, func(ctx context.Context, i int) error {
			return ended(ctx, container.TimeLimit, -1, shell("sleep 1000"), container.WithTimeLimit(time.Duration(1+i%7)*time.Millisecond))
		}},
		{"output limit", 4, func(ctx context.Context, _ int) error {
			return ended(ctx, container.OutputLimit, -1, shell("yes"), container.WithOutputLimit(10_000), container.WithStdout(new(bytes.Buffer)))
		}},
		{"orphans", 6, func(ctx context.Context, _ int) error {
			return ended(ctx, container.Exited, 3, shell("for i in 1 2 3 4 5; do sleep 1000 & done; exit 3"))
		}},
		{"no such command", 4, func(ctx context.Context, _ int) error {
			_, err := container.Run(ctx, container.WithCommand("no-such-command"))
			if !errors.Is(err, container.ErrNotFound) {
				return fmt.Errorf("not ErrNotFound: %w", err)
			}
			return nil
		}},
		{"closed at once", 6, func(ctx context.Context, _ int) error {
			c, err := container.New(shell("sleep 1000"))
			if err != nil {
				return err
			}
			return errors.Join(c.Start(ctx), c.Close())
		}},
		{"canceled", 6, func(ctx context.Context, i int) error {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(i%50)*100*time.Microsecond)
			defer cancel()
			res, err := container.Run(ctx, shell("sleep 1000"))
			if err == nil && res.Status != container.Canceled {
				err = fmt.Errorf("%v", res)
			}
			return err
		}},
		{"attack", 8, func(_ context.Context, i int) error {
			a := attacks[i%len(attacks)]
			v, err := main(t, a)
			if err == nil && v.escaped {
				err = fmt.Errorf("%s: %v", a.name, v)
			}
			return err
		}},
	}
	if memory {
		s.kinds = append(s.kinds, soaked{"out of memory", 2, func(ctx context.Context, _ int) error {
			return ended(ctx, container.MemoryLimit, -1, shell(`x=$(head -c 50000000 /dev/zero | tr "\0" x); echo $x`), container.WithMemoryLimit(8<<20))
		}})
	}
	// In turn and mixed: each kind as often as its share.
	most := 0
	for _, k := range s.kinds {
		most = max(most, k.share)
	}
	for round := range most {
		for i, k := range s.kinds {
			if round*k.share/most != (round+1)*k.share/most {
				s.turns = append(s.turns, i)
			}
		}
	}
	return s
}

func shell(line string) container.JobOption { return container.WithCommand("/bin/sh", "-c", line) }

// ended runs a container and tells whether its end was another than that.
func ended(ctx context.Context, want container.Status, code int, opts ...container.Option) error {
	res, err := container.Run(ctx, opts...)
	if err == nil && (res.Status != want || res.ExitCode != code) {
		err = fmt.Errorf("%v, not %v", res, want)
	}
	return err
}

// open starts the container that jobs of Exec are in.
func (s *soak) open(t *testing.T) {
	t.Helper()
	var err error
	s.warm, err = container.New()
	require.NoError(t, err)
	require.NoError(t, s.warm.Start(t.Context()))
}

// killLauncher ends the launcher, while no container is there.
func killLauncher(t *testing.T) {
	t.Helper()
	fd, err := unix.PidfdOpen(launcherPID(t), 0)
	require.NoError(t, err)
	require.NoError(t, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			require.NoError(t, err)
			require.Equal(t, 1, n)
			break
		}
	}
	require.NoError(t, unix.Close(fd))
}

// launcherPID finds the child of this program that is its launcher.
func launcherPID(t *testing.T) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for _, f := range strings.Fields(string(text)) {
			comm, err := os.ReadFile("/proc/" + f + "/comm") // it has no arguments left
			if err == nil && string(comm) == "inlay-launcher\n" {
				pid, err := strconv.Atoi(f)
				require.NoError(t, err)
				return pid
			}
		}
	}
	t.Fatal("no launcher")
	return 0
}

// vitals are what a host program and its launcher have while no container is there,
// beside what a census counts.
type vitals struct{ launcherFDs, heap, anon, launcherAnon int } // sizes in KiB

func (v vitals) String() string {
	return fmt.Sprintf("heap %d KiB, anonymous memory %d KiB, the launcher's %d KiB and %d descriptors", v.heap, v.anon, v.launcherAnon, v.launcherFDs)
}

// How much more memory may be in use at the end: what a collector leaves behind
// varies by that.
const heapSlack, anonSlack, launcherSlack = 2 << 10, 24 << 10, 256 // KiB

// flat tells what is more than at first.
func (v vitals) flat(first vitals) error {
	var errs []error
	for _, f := range []struct {
		what              string
		now, first, slack int
	}{
		{"the launcher's descriptors", v.launcherFDs, first.launcherFDs, 0},
		{"KiB of heap", v.heap, first.heap, heapSlack},
		{"KiB of anonymous memory", v.anon, first.anon, anonSlack},
		{"KiB of the launcher's memory", v.launcherAnon, first.launcherAnon, launcherSlack},
	} {
		if f.now > f.first+f.slack {
			errs = append(errs, fmt.Errorf("%s: %d at the end, %d at first", f.what, f.now, f.first))
		}
	}
	return errors.Join(errs...)
}

func (s *soak) look(t *testing.T) vitals {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	pid := launcherPID(t)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return vitals{launcherFDs: len(fds), heap: int(m.HeapAlloc >> 10), anon: anonymous(t, os.Getpid()), launcherAnon: anonymous(t, pid)}
}

// anonymous is how many KiB of anonymous memory a process has in pages of the usual size, proc_pid_smaps(5). A huge page that the
// kernel put in place of some (khugepaged) comes and goes by the machine's load, 2 MiB at a time.
func anonymous(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	require.NoError(t, err)
	figure := func(name string) int {
		lines := strings.Split(string(text), "\n")
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+":") })
		require.GreaterOrEqual(t, i, 0, name)
		n, err := strconv.Atoi(strings.Fields(lines[i])[1])
		require.NoError(t, err)
		return n
	}
	return figure("Anonymous") - figure("AnonHugePages")
}
