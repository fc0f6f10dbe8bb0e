package container_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// controllersHere are those that this host lets containers have, read from its
// files alone.
func controllersHere(t *testing.T) []string {
	t.Helper()
	top := containertest.Groups(t)
	if top == nil {
		return nil
	}
	var all []string
	for _, p := range top.Paths() {
		text, err := os.ReadFile(p + "/cgroup.controllers")
		if err == nil {
			all = append(all, strings.Fields(string(text))...)
			continue
		}
		// v1: a hierarchy's folder is named after what is in it.
		mount := strings.Split(strings.TrimPrefix(p, "/sys/fs/cgroup/"), "/")[0]
		for _, c := range strings.Split(mount, ",") {
			all = append(all, map[string]string{"blkio": "io"}[c], c)
		}
	}
	return all
}

// Each limit is kept where its controller is there, and refused by name, with a
// remedy, where it is not; as an option it is left out, and that is said. The list
// is printed: what is refused differs from host to host.
func TestLimitsKeptOrRefused(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	there := controllersHere(t)
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		// Its scopes get none of the controllers that it does not know itself.
		there = slices.DeleteFunc(there, func(c string) bool { return c == "hugetlb" })
	}
	disk, dir := data(t)
	for _, tt := range []struct {
		option, controller string
		opt                container.JobOption
	}{
		{"WithMemoryLimit", "memory", container.WithMemoryLimit(64 << 20)},
		{"WithPidsLimit", "pids", container.WithPidsLimit(20)},
		{"WithCPULimit", "cpu", container.WithCPULimit(0.5)},
		{"WithCPUWeight", "cpu", container.WithCPUWeight(50)},
		{"WithCPUSet", "cpuset", container.WithCPUSet("0")},
		{"WithIOLimit", "io", container.WithIOLimit(cgroup.IOLimit{Device: dir, WriteBPS: 1 << 20})},
		{"WithIOWeight", "io", container.WithIOWeight(200)},
		{"WithSwapLimit", "memory", container.JobOptions(container.Optional(container.WithMemoryLimit(64<<20)), container.WithSwapLimit(0))},
		{"WithResources", "hugetlb", container.WithResources(cgroup.Limits{Hugetlb: map[string]int64{"2MB": 0}})},
		{"WithResources", "nothing", container.WithResources(cgroup.Limits{Unified: map[string]string{"nothing.max": "1"}})},
		{"WithCPUTimeLimit", "any", container.WithCPUTimeLimit(1 << 34)},
		{"WithIdleLimit", "any", container.WithIdleLimit(1 << 38)},
	} {
		kept := slices.Contains(there, tt.controller) || tt.controller == "any" && there != nil
		word := map[bool]string{true: "kept", false: "refused"}[kept]
		t.Logf("%-17s %-8s %s", tt.option, tt.controller, word)
		for _, way := range []string{"Run", "Exec"} {
			t.Run(tt.option+"/"+tt.controller+"/"+way, func(t *testing.T) {
				do := func(opt container.JobOption) (*container.Result, error) {
					if way == "Run" {
						return container.Run(timeout(t), disk, sh("true"), opt)
					}
					c := start(t, disk)
					defer func() { require.NoError(t, c.Close()) }()
					p, err := c.Exec(timeout(t), sh("true"), opt)
					if err != nil {
						return nil, err
					}
					return p.Wait(timeout(t))
				}
				res, err := do(tt.opt)
				if kept {
					require.NoError(t, err)
					require.True(t, res.Success())
					require.NotContains(t, droppedOptions(res.Dropped), tt.option)
					return
				}
				var refused *container.LimitError
				require.ErrorAs(t, err, &refused)
				require.Equal(t, tt.option, refused.Option)
				require.NotEmpty(t, refused.Reason)
				require.NotEmpty(t, refused.Remedy)
				require.ErrorIs(t, err, errors.ErrUnsupported)
				res, err = do(container.Optional(tt.opt))
				require.NoError(t, err)
				require.True(t, res.Success())
				require.Contains(t, droppedOptions(res.Dropped), tt.option)
			})
		}
	}
}
