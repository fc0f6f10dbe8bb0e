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

// What a profile says about a call.
func ExampleParseSeccomp() {
	profile, err := security.ParseSeccomp([]byte(`{
		"defaultAction": "SCMP_ACT_ERRNO",
		"syscalls": [
			{"names": ["read", "write", "exit_group"], "action": "SCMP_ACT_ALLOW"},
			{"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}
		]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(profile.Explain("amd64", "write"))
	fmt.Println(profile.Explain("amd64", "kill", 1))
	fmt.Println(profile.Explain("amd64", "io_uring_setup"))

	// Output:
	// write (1): SCMP_ACT_ALLOW, by syscalls[0]
	// kill (62): SCMP_ACT_ERRNO(1), by the default action
	// io_uring_setup (425): SCMP_ACT_ERRNO(38), by newer than every call that the profile names
}
