package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

// accuracy compares what is reported with what is known: the job's own clock, the
// memory that it touched, nothing, and the limit of time that it had. The kernel
// charges memory ahead, up to 64 pages for each processor that the job ran on
// (mm/memcontrol.c, MEMCG_CHARGE_BATCH), so that much too much is exact.
func accuracy() (err error) {
	_, done, err := groupsBase()
	if err != nil {
		fmt.Println("accuracy: left out, needs cgroups that it may make:", err)
		return nil
	}
	if err := done(); err != nil {
		return err
	}
	dir, err := buildC()
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err != nil {
		return err
	}
	memory := int64(256 << 20)
	show := container.WithMounts(rootfs.Bind(dir, "/run/job", rootfs.ReadOnly()))
	limit := container.WithResources(cgroup.Limits{Memory: &memory})
	c, err := container.New(show)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(context.Background()); err != nil {
		return err
	}
	ways := []struct {
		name string
		run  func(opts ...container.JobOption) (*container.Result, error)
	}{
		{"Run", func(opts ...container.JobOption) (*container.Result, error) {
			return container.Run(context.Background(), show, limit, container.JobOptions(opts...))
		}},
		{"Exec", func(opts ...container.JobOption) (*container.Result, error) {
			p, err := c.Exec(context.Background(), append(opts, limit)...)
			if err != nil {
				return nil, err
			}
			return p.Wait(context.Background())
		}},
	}
	n := max(3, *rounds/30)
	batch := 64 * os.Getpagesize() * runtime.NumCPU()
	fmt.Printf("accuracy, the median and the worst of %d; the kernel charges up to %d KiB ahead (64 pages × %d processors)\n", n, batch>>10, runtime.NumCPU())
	for _, w := range ways {
		var cpu, touched, nothingMemory, nothingCPU, late []float64
		for range n {
			var out bytes.Buffer
			res, err := good(w.run(container.WithCommand("/run/job/job", "burn", "500"), container.WithStdout(&out)))
			if err != nil {
				return err
			}
			own, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
			if err != nil {
				return err
			}
			cpu = append(cpu, float64(res.CPUTime()-time.Duration(own))/1e6)
			if res, err = good(w.run(container.WithCommand("/run/job/job", "touch", "64"))); err != nil {
				return err
			}
			touched = append(touched, float64(res.MemoryPeak-64<<20)/1024)
			if res, err = good(w.run(container.WithCommand("/run/job/job", "nothing"))); err != nil {
				return err
			}
			nothingMemory = append(nothingMemory, float64(res.MemoryPeak)/1024)
			nothingCPU = append(nothingCPU, float64(res.CPUTime())/1e6)
			begun := time.Now()
			res, err = w.run(container.WithCommand("/run/job/job", "sleep"), container.WithTimeLimit(time.Second))
			if err != nil {
				return err
			}
			if res.Status != container.TimeLimit {
				return fmt.Errorf("%s under a limit of 1 s: %s", w.name, res)
			}
			// From the start of the job on, which Start returns after.
			late = append(late, float64(time.Since(begun)-res.SetupTime-time.Second)/1e6)
		}
		for _, l := range []struct {
			what    string
			figures []float64
			unit    string
			most    float64
		}{
			{"processor time of a job that burns 500 ms, less its own clock", cpu, "ms", 1},
			{"peak of a job that touches 64 MiB, less those", touched, "KiB", 640},
			{"peak of a job that does nothing", nothingMemory, "KiB", 512},
			{"processor time of a job that does nothing", nothingCPU, "ms", 1},
			{"end of a job with 1 s of time, later than that", late, "ms", 3},
		} {
			slices.Sort(l.figures)
			fmt.Printf("  %-4s %-62s %8.2f %8.2f %s (at most %g)\n", w.name, l.what, l.figures[len(l.figures)/2], l.figures[len(l.figures)-1], l.unit, l.most)
		}
	}
	return nil
}

// good makes an error of a job that failed.
func good(res *container.Result, err error) (*container.Result, error) {
	if err != nil {
		return nil, err
	}
	return res, res.Err()
}
