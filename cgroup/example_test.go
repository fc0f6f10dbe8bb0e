package cgroup_test

import (
	"fmt"

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
