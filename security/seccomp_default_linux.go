package security

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaults are the default profiles that were asked for, by capabilities.
var defaults sync.Map

// DefaultSeccomp is Docker's default profile for a job with these capabilities
// ("CAP_NET_ADMIN"): about 360 calls, some of them for certain arguments alone;
// others are answered EPERM, and ones newer than the profile ENOSYS. A capability
// opens the calls that are about it. Made once for each set; for concurrent use.
func DefaultSeccomp(capabilities []string) (*Seccomp, error) {
	sorted := slices.Sorted(slices.Values(capabilities))
	key := strings.Join(sorted, " ")
	if s, ok := defaults.Load(key); ok {
		return s.(*Seccomp), nil //nolint:forcetypeassert // no other is stored
	}
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: sorted}}})
	if err != nil {
		return nil, fmt.Errorf("the default seccomp profile: %w", err)
	}
	s, err := NewSeccomp(p)
	if err != nil {
		return nil, err
	}
	s.name = defaultName
	kept, _ := defaults.LoadOrStore(key, s)
	return kept.(*Seccomp), nil //nolint:forcetypeassert // no other is stored
}
