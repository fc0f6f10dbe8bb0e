package container_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// verdict is one way for a job to end, and what has to be said of it.
type verdict struct {
	name   string
	opts   []container.JobOption
	status container.Status
	needs  string // a controller, "a group" of any, or "none"
	kill   bool   // from outside
	// more looks at the rest.
	more func(*container.Result) error
}

func verdicts(t *testing.T) []verdict {
	t.Helper()
	job := func(args ...string) container.JobOption { return consuming(t, args...) }
	ms := func(n int) string { return strconv.Itoa(n * int(time.Millisecond)) }
	const big, limit = "67108864", 32 << 20
	exit := func(code int) func(*container.Result) error {
		return func(r *container.Result) error {
			if r.ExitCode != code {
				return fmt.Errorf("exit code %d, not %d", r.ExitCode, code)
			}
			return nil
		}
	}
	return []verdict{
		{name: "success", opts: []container.JobOption{sh("exit 0")}, status: container.Exited, needs: "none", more: exit(0)},
		{name: "exit code", opts: []container.JobOption{sh("exit 137")}, status: container.Exited, needs: "none", more: exit(137)},
		{name: "signal", opts: []container.JobOption{job("self kill")}, status: container.Signaled, needs: "none"},
		{name: "memory", opts: []container.JobOption{job("anon", big), container.WithMemoryLimit(limit)}, status: container.MemoryLimit, needs: "memory"},
		{name: "memory of a child", opts: []container.JobOption{job("anon in a child", big), container.WithMemoryLimit(limit)}, status: container.MemoryLimit, needs: "memory"},
		{name: "time", opts: []container.JobOption{sh("sleep 1000"), container.WithTimeLimit(30 * time.Millisecond)}, status: container.TimeLimit, needs: "none"},
		{name: "processor time", opts: []container.JobOption{job("spin in threads"), container.WithCPUTimeLimit(60 * time.Millisecond)}, status: container.CPUTimeLimit, needs: "a group"},
		{name: "output", opts: []container.JobOption{sh("yes"), container.WithOutputLimit(100_000), container.WithStdout(io.Discard)}, status: container.OutputLimit, needs: "none", more: func(r *container.Result) error {
			if r.StdoutBytes != 100_000 {
				return fmt.Errorf("%d bytes", r.StdoutBytes)
			}
			return nil
		}},
		{name: "idle", opts: []container.JobOption{sh("sleep 1000"), container.WithIdleLimit(60 * time.Millisecond)}, status: container.IdleLimit, needs: "a group"},
		{name: "killed", opts: []container.JobOption{sh("sleep 1000")}, status: container.Killed, needs: "none", kill: true},
		// Two limits that are both met: the first in the kernel's order is the verdict.
		{name: "memory, then processor time", opts: []container.JobOption{job("allocate, then spin", big), container.WithMemoryLimit(limit), container.WithCPUTimeLimit(10 * time.Second)}, status: container.MemoryLimit, needs: "memory"},
		{name: "processor time, then memory", opts: []container.JobOption{job("spin, then allocate", ms(10_000)), container.WithMemoryLimit(limit), container.WithCPUTimeLimit(60 * time.Millisecond)}, status: container.CPUTimeLimit, needs: "memory"},
		// And one that meets both at about the same time: whichever it is, the
		// verdict is the first of the causes.
		{name: "memory or processor time", opts: []container.JobOption{job("spin and allocate slowly", big), container.WithMemoryLimit(limit), container.WithCPUTimeLimit(110 * time.Millisecond)}, status: -1, needs: "memory", more: func(r *container.Result) error {
			first := slices.MinFunc(r.Causes, func(a, b container.Cause) int { return int(a.After - b.After) })
			if r.Status != r.Causes[0].Status || first.After != r.Causes[0].After || r.Status != container.MemoryLimit && r.Status != container.CPUTimeLimit {
				return errors.New("the verdict is not the first cause")
			}
			return nil
		}},
	}
}

// Every kind of end is called the same every time, of a main job and of Exec's,
// while the machine is busy with other things.
func TestVerdicts(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	n := 4
	if os.Getenv("INLAY_CI") != "" {
		n = 50
	}
	if os.Getenv("INLAY_SOAK") != "" {
		n = 1000
		for range runtime.NumCPU() { // as much again as there is
			load := exec.CommandContext(t.Context(), "sh", "-c", "while kill -0 $PPID; do :; done")
			require.NoError(t, load.Start())
			t.Cleanup(func() { _ = load.Wait() }) // killed
		}
	}
	warm := start(t, selfMount(t))
	for _, v := range verdicts(t) {
		t.Run(v.name, func(t *testing.T) {
			switch v.needs {
			case "none":
			case "a group":
				needGroups(t)
			default:
				needGroups(t, v.needs)
			}
			var next atomic.Int64
			var all sync.WaitGroup
			met := map[container.Status]int{}
			var mu sync.Mutex
			for range 3 {
				all.Go(func() {
					for i := next.Add(1); i <= int64(n); i = next.Add(1) {
						res, err := v.once(t, warm, i%2 == 0)
						if err != nil {
							t.Errorf("%d: %v", i, err)
							continue
						}
						mu.Lock()
						met[res.Status]++
						mu.Unlock()
						if v.status >= 0 && res.Status != v.status {
							t.Errorf("%d: %v, %v %v", i, res, res.Causes, res.Notes)
						} else if v.more != nil {
							if err := v.more(res); err != nil {
								t.Errorf("%d: %v: %v, %v", i, res, err, res.Causes)
							}
						}
					}
				})
			}
			all.Wait()
			t.Logf("%v", met)
		})
	}
	require.NoError(t, warm.Close())
}

func (v *verdict) once(t *testing.T, warm *container.Container, asExec bool) (*container.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if asExec {
		p, err := warm.Exec(ctx, v.opts...)
		if err != nil {
			return nil, err
		}
		if v.kill {
			err = p.Kill()
		}
		res, waitErr := p.Wait(ctx)
		return res, errors.Join(err, waitErr)
	}
	c, err := container.New(append(asOptions(v.opts), selfMount(t))...)
	if err == nil {
		err = c.Start(ctx)
	}
	if err != nil {
		return nil, err
	}
	if v.kill {
		err = c.Kill()
	}
	res, waitErr := c.Wait(ctx)
	return res, errors.Join(err, waitErr, c.Close())
}
