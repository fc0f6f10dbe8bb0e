package container_test

import (
	"context"
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// Launches from four workers, with an Exec for each third, while the collector runs
// all the time: none may fail, in any build.
func TestStressLaunches(t *testing.T) {
	containertest.Census(t)
	n := 200
	if v := os.Getenv("INLAY_STRESS_LAUNCHES"); v != "" {
		var err error
		n, err = strconv.Atoi(v)
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	warm := start(t)
	var next atomic.Int64
	errs := make(chan error, 4)
	for range 4 {
		go func() {
			for {
				i := int(next.Add(1))
				if i > n {
					errs <- nil
					return
				}
				err := oneLaunch(nil, i)
				if err == nil && i%3 == 0 {
					err = oneLaunch(warm, i)
				}
				if err != nil {
					errs <- fmt.Errorf("launch %d: %w", i, err)
					return
				}
			}
		}()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
	close(stop)
	<-collected
	t.Logf("%d launches and %d Execs, none failed", n, n/3)
}

// Jobs that end before Exec has returned from asking for them, as on a machine
// whose processors all have something else to do.
func TestStressShortJobs(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	n := 50
	if os.Getenv("INLAY_CI") != "" {
		n = 500
	}
	for range 2 * runtime.NumCPU() {
		load := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		require.NoError(t, load.Start())
		t.Cleanup(func() { _ = load.Wait() }) // killed
	}
	var many []container.JobOption // descriptors to close before it is back
	for range 100 {
		f, err := os.Open("/dev/null")
		require.NoError(t, err)
		defer f.Close() //nolint:errcheck // nothing was written
		many = append(many, container.WithExtraFiles(f))
	}
	warm := start(t)
	for i := range n {
		p, err := warm.Exec(timeout(t), append(many, container.WithCommand("/bin/true"))...)
		require.NoError(t, err, i)
		res, err := p.Wait(timeout(t))
		require.NoError(t, err, i)
		require.True(t, res.Success(), "%d: %v", i, res)
	}
	require.NoError(t, warm.Close())
}

// oneLaunch runs a job in a container of its own, or by Exec in one that is there.
func oneLaunch(warm *container.Container, i int) error {
	ctx := context.Background()
	var out strings.Builder
	cmd := container.JobOptions(sh(fmt.Sprintf("echo %d; exit %d", i, i%200)), container.WithStdout(&out))
	var res *container.Result
	var err error
	if warm != nil {
		var p *container.Process
		if p, err = warm.Exec(ctx, cmd); err == nil {
			res, err = p.Wait(ctx)
		}
	} else {
		res, err = container.Run(ctx, cmd)
	}
	if err != nil {
		return err
	}
	if res.ExitCode != i%200 || out.String() != fmt.Sprintf("%d\n", i) {
		return fmt.Errorf("%v, %q", res, out.String())
	}
	return nil
}

// Many containers are there at once; all start and close.
func TestManyResident(t *testing.T) {
	containertest.Census(t)
	n := 100
	if os.Getenv("INLAY_CI") != "" {
		n = 500
	}
	var list []*container.Container
	for range n {
		c, err := container.New()
		require.NoError(t, err)
		require.NoError(t, c.Start(timeout(t)))
		list = append(list, c)
	}
	for _, c := range list {
		require.NoError(t, c.Close())
	}
}

// As many with every limit that there is: each has its figures, and is limited.
func TestManyWithLimits(t *testing.T) {
	containertest.Census(t)
	needGroups(t, "memory", "pids", "cpu")
	n := 100
	if os.Getenv("INLAY_CI") != "" {
		n = 1000
	}
	limits := []container.Option{
		container.WithMemoryLimit(64 << 20), container.WithCPULimit(0.5), container.WithCPUWeight(50), container.WithPidsLimit(20),
		container.WithCPUTimeLimit(10 * time.Second), container.WithIdleLimit(10 * time.Minute), container.WithTimeLimit(10 * time.Minute), container.WithOutputLimit(1 << 20),
	}
	if groupsOf(t, "cpuset") {
		limits = append(limits, container.WithCPUSet("0"))
	}
	if _, dir := data(t); groupsOf(t, "io") {
		limits = append(limits, container.WithIOLimit(cgroup.IOLimit{Device: dir, WriteBPS: 1 << 20}))
	}
	list := make([]*container.Container, n)
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := worker; i < n; i += 4 {
				c, err := container.New(append(slices.Clip(limits), container.WithCommand("sleep", "1000"))...)
				if err == nil {
					err = c.Start(context.Background())
				}
				if err != nil {
					t.Errorf("%d: %v", i, err)
				}
				list[i] = c
			}
		})
	}
	all.Wait()
	begun := time.Now()
	for _, c := range list {
		// All are closed in any case: one wrong figure must not look like a thousand leaks.
		s, err := c.Stats(timeout(t))
		if assert.NoError(t, err) {
			assert.Equal(t, int64(1), s.Pids.Now)
			assert.Positive(t, s.Memory.Now)
		}
	}
	t.Logf("the figures of %d: %v", n, time.Since(begun))
	for _, c := range list {
		all.Go(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// Plans above 60 KiB travel in a memfd, descriptors above 200 in several
// messages.
func TestLargeRequests(t *testing.T) {
	containertest.Census(t)
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(i * 7)
	}
	args := []string{"-c", "echo $#; md5sum </work/big; echo ${#BIG}", "sh"}
	for i := range 10000 {
		args = append(args, strconv.Itoa(i))
	}
	got := output(t, container.WithFile("/work/big", big, 0o644), container.WithCommand("/bin/sh", args...), container.WithEnv("BIG="+strings.Repeat("x", 100000)))
	require.Equal(t, []string{"10000", fmt.Sprintf("%x  -", md5.Sum(big)), "100000"}, lines(got))
}
