package cgroup_test

import (
	"context"
	"fmt"
	"os/exec"

	"github.com/inlay-dev/inlay/cgroup"
)

// Every fault is reported, under the name of its field.
func ExampleLimits_Validate() {
	memory, cpus := int64(64<<20), 0.0
	limits := cgroup.Limits{Memory: &memory, CPUs: &cpus, DeviceRules: []string{"c 1:3 rwx"}}
	limits.Validate(func(field string, value any, err error) {
		fmt.Printf("%s: %v\n", field, err)
	})

	// Output:
	// CPUs: not between 0.01 and 8192
	// DeviceRules: "c 1:3 rwx" is not like "c 1:3 rwm"
}

func ExampleValidateCPUSet() {
	fmt.Println(cgroup.ValidateCPUSet("0-2,7"))
	fmt.Println(cgroup.ValidateCPUSet("3-1"))

	// Output:
	// <nil>
	// "3-1" is not a list like 0-2,7
}

func ExampleDetect() {
	switch cgroup.Detect() {
	case cgroup.V1, cgroup.V2, cgroup.Hybrid, cgroup.Unavailable:
		fmt.Println("one of four")
	}

	// Output:
	// one of four
}

// A group with a limit of its own, and its figures.
func ExampleGroup_Create() { //nolint:testableexamples // needs control groups
	ctx := context.Background()
	top, err := cgroup.Nearest()
	if err != nil {
		fmt.Println(err) // with what to do about it
		return
	}
	defer top.Close() //nolint:errcheck // descriptors of folders
	pids := int64(16)
	g, err := top.Create("inlay-example", cgroup.Limits{Pids: &pids})
	if err != nil {
		fmt.Println(err)
		return
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return
	}
	if err := g.Add(cmd.Process.Pid); err != nil {
		fmt.Println(err)
	}
	if stats, err := g.Stats(); err == nil {
		fmt.Println(stats.Pids.Now)
	}
	fmt.Println(g.Kill(ctx), cmd.Wait(), g.Delete(ctx))
}
