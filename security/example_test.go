package security_test

import (
	"fmt"

	"github.com/inlay-dev/inlay/security"
)

// OCI's and Docker's names are one.
func ExampleParseCapability() {
	for _, name := range []string{"CAP_NET_ADMIN", "net_admin", "root"} {
		canonical, err := security.ParseCapability(name)
		fmt.Println(canonical, err)
	}

	// Output:
	// CAP_NET_ADMIN <nil>
	// CAP_NET_ADMIN <nil>
	//  capability "root" does not exist
}

// The mask is as in CapEff of /proc/PID/status.
func ExampleCapabilityBits() {
	mask, err := security.CapabilityBits([]string{"chown", "net_admin"})
	fmt.Printf("%016x %v\n", mask, err)

	// Output:
	// 0000000000001001 <nil>
}

func ExampleRlimit_Validate() {
	fmt.Println(security.Rlimit{Name: "nofile", Soft: 1024, Hard: security.Infinity}.Validate())
	fmt.Println(security.Rlimit{Name: "nofile", Soft: 1024, Hard: 512}.Validate())

	// Output:
	// <nil>
	// soft limit 1024 above the hard limit 512
}

func ExampleParseRlimitName() {
	fmt.Println(security.ParseRlimitName("RLIMIT_NOFILE"))

	// Output:
	// nofile <nil>
}
