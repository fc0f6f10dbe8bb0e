// Command peer makes, limits and deletes control groups by containerd/cgroups, the
// library that ours is measured beside: one group for each byte on stdin, and a line
// with the nanoseconds that it took. The bench program builds and drives it.
//
//	peer - FOLDER...         a group alone
//	peer PROGRAM FOLDER...   one with a child that is moved into it; the program
//	                         reads a byte and exits
//
// The folders are the group's parents, one for each hierarchy. It is a module of its
// own because the library brings D-Bus and a BPF loader with it.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// root is where every distribution mounts the hierarchies.
const root = "/sys/fs/cgroup"

// As in groups.h.
var (
	memory        = int64(64 << 20)
	quota         = int64(50_000)
	period        = uint64(100_000)
	pids          = int64(64)
	resourcesOfV1 = specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
		Pids:   &specs.LinuxPids{Limit: &pids},
	}
	resourcesOfV2 = cgroup2.Resources{
		Memory: &cgroup2.Memory{Max: &memory},
		CPU:    &cgroup2.CPU{Max: cgroup2.NewCPUMax(&quota, &period)},
		Pids:   &cgroup2.Pids{Max: pids},
	}
)

// group is what the library's two kinds have in common.
type group interface {
	add(pid int) error
	Delete() error
}

type v1 struct{ cgroup1.Cgroup }

func (g v1) add(pid int) error { return g.AddProc(uint64(pid)) }

type v2 struct{ *cgroup2.Manager }

func (g v2) add(pid int) error { return g.AddProc(uint64(pid)) }

// maker tells how a group is made below those folders.
func maker(folders []string) (func() (group, error), error) {
	paths := map[cgroup1.Name]string{}
	for _, f := range folders {
		if _, err := os.Stat(filepath.Join(f, "memory.max")); err == nil {
			return func() (group, error) {
				// The folder in place of the mount point: the library would try to enable
				// controllers in every folder from there on.
				g, err := cgroup2.NewManager(f, "/peer", &resourcesOfV2)
				return v2{g}, err
			}, nil
		}
		mount, path, _ := strings.Cut(strings.TrimPrefix(f, root+"/"), "/")
		for _, name := range strings.Split(mount, ",") {
			paths[cgroup1.Name(name)] = "/" + path
		}
	}
	hierarchy := []cgroup1.Subsystem{cgroup1.NewMemory(root), cgroup1.NewCpu(root), cgroup1.NewPids(root)}
	for _, s := range hierarchy {
		if _, ok := paths[s.Name()]; !ok {
			return nil, fmt.Errorf("%s: no folder below %s among %s", s.Name(), root, folders)
		}
	}
	return func() (group, error) {
		g, err := cgroup1.New(func(n cgroup1.Name) (string, error) { return paths[n] + "/peer", nil }, &resourcesOfV1,
			cgroup1.WithHierarchy(func() ([]cgroup1.Subsystem, error) { return slices.Clone(hierarchy), nil }))
		return v1{g}, err
	}, nil
}

func once(create func() (group, error), program string) error {
	g, err := create()
	if err != nil {
		return err
	}
	if program != "-" {
		if err := child(g, program); err != nil {
			return err
		}
	}
	return g.Delete()
}

func child(g group, program string) error {
	cmd := exec.Command(program, "wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := g.add(cmd.Process.Pid); err != nil {
		return err
	}
	if err := in.Close(); err != nil {
		return err
	}
	return cmd.Wait()
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: peer PROGRAM|- FOLDER...")
		os.Exit(2)
	}
	create, err := maker(os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	b := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(b); err != nil {
			return // the end
		}
		begun := time.Now()
		if err := once(create, os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(time.Since(begun).Nanoseconds())
	}
}
