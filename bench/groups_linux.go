package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

// As in groups.h.
func limited() cgroup.Limits {
	memory, cpus, pids := int64(64<<20), 0.5, int64(64)
	return cgroup.Limits{Memory: &memory, CPUs: &cpus, Pids: &pids}
}

// groupsBase makes the group below which all that is measured has its groups, and
// enables the controllers in it.
func groupsBase() (base *cgroup.Group, done func() error, err error) {
	top, err := cgroup.Nearest()
	if err != nil {
		return nil, nil, err
	}
	base, err = top.Create(fmt.Sprintf("inlay-bench-%d", os.Getpid()), cgroup.Limits{})
	if err != nil {
		return nil, nil, errors.Join(err, top.Close())
	}
	done = func() error { return errors.Join(base.Delete(context.Background()), top.Close()) }
	// The first child with limits: controllers are enabled for it.
	first, err := base.Create("first", limited())
	if err == nil {
		err = first.Delete(context.Background())
	}
	if err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return base, done, nil
}

// buildPeer compiles the program that measures containerd/cgroups, a module of its
// own.
func buildPeer(dir string) error {
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "peer"), ".")
	cmd.Dir = *peer
	cmd.Env = append(os.Environ(), "GOWORK=off") // with its own versions
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w: %s", cmd.Dir, err, out)
	}
	return nil
}

// groups compares what a group costs, and what a launch with limits does.
func groups() (err error) {
	base, done, err := groupsBase()
	if err != nil {
		fmt.Println("groups: left out, needs cgroups that it may make:", err)
		return nil
	}
	defer func() { err = errors.Join(err, done()) }()
	dir, err := buildC()
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err == nil {
		err = buildPeer(dir)
	}
	if err != nil {
		return err
	}
	tiny, job := filepath.Join(dir, "true"), filepath.Join(dir, "job")
	var programs []*cProgram
	defer func() {
		for _, p := range programs {
			err = errors.Join(err, p.close())
		}
	}()
	program := func(name string, args ...string) func() (time.Duration, error) {
		p, e := startC(filepath.Join(dir, name), args...)
		if e != nil {
			return func() (time.Duration, error) { return 0, e }
		}
		programs = append(programs, p)
		return p.once
	}
	paths := base.Paths()
	own := timed(func() error {
		g, err := base.Create("own", limited())
		if err != nil {
			return err
		}
		e, err := g.Enter()
		if err != nil {
			return errors.Join(err, g.Delete(context.Background()))
		}
		e.Close()
		return g.Delete(context.Background())
	})
	floorArgs := []string{"-f"}
	for _, p := range paths {
		floorArgs = append(floorArgs, "-g", p)
	}
	show := container.WithMounts(rootfs.Bind(dir, "/run/job", rootfs.ReadOnly()))
	limits := container.WithResources(limited())
	warm, err := container.New(show)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, warm.Close()) }()
	if err := warm.Start(context.Background()); err != nil {
		return err
	}
	rows := []row{
		{"C, a group", program("group", append([]string{"-"}, paths...)...)},
		{"C, with a child", program("group", append([]string{tiny}, paths...)...)},
		{"cgroup, a group", own},
		{"containerd/cgroups, a group", program("peer", append([]string{"-"}, paths...)...)},
		{"containerd/cgroups, with a child", program("peer", append([]string{job}, paths...)...)},
		{"floor with limits", program("floor", append(floorArgs, tiny)...)},
		{"os/exec", timed(func() error { return exec.Command(tiny).Run() })},
		{"Run with limits", timed(func() error { return run(show, limits, container.WithCommand("/run/job/true")) })},
		{"Exec with limits", timed(func() error {
			return execIn(warm, limits, container.WithCommand("/run/job/true"))
		})},
	}
	for _, kind := range kinds() {
		m, err := interleave(rows, kind.n, kind.pause)
		if err != nil {
			return err
		}
		fmt.Printf("groups, limits of memory, processors and processes; tiny static; %s, medians of %d\n", kind.name, kind.n)
		for i, r := range rows {
			fmt.Printf("  %-34s %8.3f ms\n", r.name, float64(m[i])/1e6)
		}
		fmt.Printf("  %-42s %5.2f ms (at most 0.5)\n", "create, limit, enter, delete", float64(m[2])/1e6)
		ratio(m, "of that, cgroup to C", 2, 0, 0)
		ratio(m, "of that, cgroup to containerd/cgroups", 2, 3, 1)
		ratio(m, "Run to floor, both with limits", 7, 5, 1.5)
		ratio(m, "Exec with limits to os/exec", 8, 6, 3)
	}
	return nil
}
