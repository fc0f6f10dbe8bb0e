package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/cgroups/v3"
	"github.com/moby/sys/mountinfo"
)

// hierarchy is one mounted tree of groups.
type hierarchy struct {
	unified     bool
	controllers []string // of v1: what is mounted; of v2 each group has its own
	mount       string   // the folder it is mounted on
	own         string   // the group of this process, below mount: "/a/b"
}

// hierarchies finds the mounted trees and where in them this process is. A v1
// hierarchy that carries no controller is left out.
func hierarchies() ([]hierarchy, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	own, unified, err := cgroups.ParseCgroupFileUnified("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return findHierarchies(mounts, own, unified), nil
}

// findHierarchies is pure.
func findHierarchies(mounts []*mountinfo.Info, own map[string]string, unified string) []hierarchy {
	var out []hierarchy
	for _, m := range mounts {
		h := hierarchy{mount: m.Mountpoint, unified: m.FSType == "cgroup2"}
		group := unified
		if !h.unified {
			for _, o := range strings.Split(m.VFSOptions, ",") {
				switch o {
				case controllerMemory, controllerCPU, controllerAccount, controllerCPUSet, controllerPids, controllerDevices, controllerHugetlb, controllerFreezer:
					h.controllers = append(h.controllers, o)
				case "blkio":
					h.controllers = append(h.controllers, controllerIO)
				}
			}
			if len(h.controllers) == 0 {
				continue
			}
			group = own[strings.ReplaceAll(h.controllers[0], controllerIO, "blkio")]
		}
		if group == "" {
			continue // this process is not in it, as far as it can see
		}
		// A mount may show a part of the tree: in a container, the container's own.
		rel, err := filepath.Rel(m.Root, group)
		if err != nil || strings.HasPrefix(group, "/../") || rel == ".." || strings.HasPrefix(rel, "../") {
			rel = "."
		}
		h.own = filepath.Join("/", rel)
		same := func(o hierarchy) bool {
			return o.unified == h.unified && slices.Equal(o.controllers, h.controllers)
		}
		if i := slices.IndexFunc(out, same); i < 0 {
			out = append(out, h)
		}
	}
	return out
}

// errNone means that nothing is mounted.
var errNone = errors.New("no cgroup hierarchy is mounted")

// hasSwap tells whether this machine has swap at all.
func hasSwap() bool { return swap() }

var swap = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/swaps")
	return err != nil || strings.Count(string(text), "\n") > 1
})
