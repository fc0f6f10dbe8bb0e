package namespace_test

import (
	"fmt"

	"github.com/inlay-dev/inlay/namespace"
)

// A kind is known by its own name and by its file in /proc/PID/ns.
func ExampleParse() {
	for _, name := range []string{"network", "net", "disk"} {
		kind, err := namespace.Parse(name)
		fmt.Println(kind, err)
	}

	// Output:
	// network <nil>
	// network <nil>
	//  namespace "disk" does not exist: one of [pid mount uts ipc network user cgroup time]
}

// All kinds are new in a container, but for time.
func ExampleDefault() {
	fmt.Println(namespace.Default())

	// Output:
	// [pid mount uts ipc network user cgroup]
}

// Without is for those who want to leave something out.
func ExampleWithout() {
	fmt.Println(namespace.Without(namespace.Default(), namespace.Network, namespace.IPC))

	// Output:
	// [pid mount uts user cgroup]
}

// Root inside is user 1000 outside, and the other users are from 100000 on.
func ExampleToHost() {
	maps := []namespace.IDMap{
		{ContainerID: 0, HostID: 1000, Size: 1},
		{ContainerID: 1, HostID: 100000, Size: 65535},
	}
	for _, id := range []uint32{0, 33, 70000} {
		fmt.Println(namespace.ToHost(maps, id))
	}

	// Output:
	// 1000 true
	// 100032 true
	// 0 false
}

func ExampleValidateIDMaps() {
	fmt.Println(namespace.ValidateIDMaps([]namespace.IDMap{
		{ContainerID: 0, HostID: 1000, Size: 10},
		{ContainerID: 5, HostID: 2000, Size: 10},
	}))

	// Output:
	// ranges 1 and 2 overlap
}

func ExampleValidateHostname() {
	for _, name := range []string{"box-1", "box 1", "-box"} {
		fmt.Println(namespace.ValidateHostname(name))
	}

	// Output:
	// <nil>
	// character ' ': letters, digits, '-', '.' and '_' are allowed
	// '-' at an end
}
