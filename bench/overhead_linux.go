package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// overhead compares what a job does under the default filter with the same without
// one: calls that do nothing, and work without calls.
func overhead() (err error) {
	dir, err := buildC()
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err != nil {
		return err
	}
	c, err := container.New(container.WithMounts(rootfs.Bind(dir, "/run/job", rootfs.ReadOnly())))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(context.Background()); err != nil {
		return err
	}
	// told is the time that the job itself took.
	told := func(profile *security.Seccomp, what string, n int) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			var out bytes.Buffer
			if err := execIn(c, container.WithCommand("/run/job/job", what, strconv.Itoa(n)), container.WithSeccomp(profile), container.WithStdout(&out)); err != nil {
				return 0, err
			}
			ns, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
			return time.Duration(ns), err
		}
	}
	const calls, work = 200_000, 20_000_000
	rows := []row{
		{"getppid, no filter", told(security.Unconfined(), "getppid", calls)},
		{"getppid, default filter", told(nil, "getppid", calls)},
		{"getppid, strict filter", told(security.Strict(), "getppid", calls)},
		{"work, no filter", told(security.Unconfined(), "compute", work)},
		{"work, default filter", told(nil, "compute", work)},
	}
	n := max(10, *rounds/10)
	m, err := interleave(rows, n, 0)
	if err != nil {
		return err
	}
	fmt.Printf("overhead, in the job's own processor time, medians of %d\n", n)
	for i, r := range rows {
		per, unit := float64(m[i])/calls, "ns a call"
		if i > 2 {
			per, unit = float64(m[i])/1e6, "ms"
		}
		fmt.Printf("  %-24s %8.1f %s\n", r.name, per, unit)
	}
	ratio(m, "getppid, default filter to none", 1, 0, 1.35)
	ratio(m, "getppid, strict filter to none", 2, 0, 0)
	ratio(m, "work, default filter to none (1.00 ± 0.02)", 4, 3, 0)
	return nil
}
