package security

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/capability"

	"github.com/inlay-dev/inlay/internal/plan"
)

// capabilityCount is how many capabilities Linux 5.10 to 6.18 have.
var capabilityCount = len(capability.ListKnown())

// ParseCapability returns the name of a capability in the form of OCI
// ("CAP_NET_ADMIN"), from that form or Docker's ("net_admin").
func ParseCapability(name string) (string, error) {
	_, canonical, err := find(name)
	return canonical, err
}

func find(name string) (capability.Cap, string, error) {
	short := strings.TrimPrefix(strings.ToLower(name), "cap_")
	for _, c := range capability.ListKnown() {
		if c.String() == short {
			return c, "CAP_" + strings.ToUpper(short), nil
		}
	}
	return 0, "", fmt.Errorf("capability %q does not exist", name)
}

// CapabilityBits returns the set of the named capabilities as a mask.
func CapabilityBits(names []string) (uint64, error) {
	var mask uint64
	for _, n := range names {
		c, _, err := find(n)
		if err != nil {
			return 0, err
		}
		mask |= 1 << uint(c)
	}
	return mask, nil
}

// AllCapabilities returns every capability's name, sorted.
func AllCapabilities() []string {
	var out []string
	for _, c := range capability.ListKnown() {
		out = append(out, "CAP_"+strings.ToUpper(c.String()))
	}
	slices.Sort(out)
	return out
}

// DropBounding emits the steps that take all but the kept capabilities from the
// bounding set, so that no execve(2) gives them back. It needs CAP_SETPCAP and
// so comes before the ids change.
func DropBounding(b *plan.Builder, keep uint64) {
	const capbsetDrop = 24
	const einval = 22
	for c := range capabilityCount {
		if keep&(1<<uint(c)) == 0 {
			b.Prctl(capbsetDrop, "PR_CAPBSET_DROP", uint64(c))
			b.Tolerate(einval) // a kernel that is older than the capability
		}
	}
}

// SetCapabilities emits the steps that leave exactly the kept capabilities: in all
// five sets those that are ambient, and not in the ambient one the others. A job of
// another user than root has them after its execve(2) only if they are ambient. The
// securebits need CAP_SETPCAP, which goes with the rest.
func SetCapabilities(b *plan.Builder, keep, ambient, securebits uint64) {
	const capAmbient, ambientRaise, ambientClear, setSecurebits, setpcap = 47, 2, 4, 28, 1 << 8
	b.Prctl(capAmbient, "PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL", ambientClear, 0, 0, 0)
	hint := func() {
		b.Hint("", "without a user namespace of its own a job can have no capability that this program itself lacks")
	}
	if securebits == 0 {
		b.Capset(keep, keep, keep)
		hint()
	} else {
		b.Capset(keep|setpcap, keep|setpcap, keep)
		hint()
	}
	for c := range capabilityCount {
		if ambient&(1<<uint(c)) != 0 {
			b.Prctl(capAmbient, "PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE", ambientRaise, uint64(c), 0, 0)
		}
	}
	if securebits != 0 {
		// After the ambient ones: SECBIT_NO_CAP_AMBIENT_RAISE forbids them.
		b.Prctl(setSecurebits, "PR_SET_SECUREBITS", securebits)
		b.Capset(keep, keep, keep)
	}
}
