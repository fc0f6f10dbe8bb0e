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
//
// Three things are refused besides: sockets that no namespace holds (AF_VSOCK,
// AF_ALG), answered EAFNOSUPPORT, and the commands TIOCSTI and TIOCLINUX of
// ioctl(2). The kernel takes 32 bits of these arguments, and so do these rules:
// Docker's own rule against AF_VSOCK compares 64 and lets 1<<32|40 pass.
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
	p.Syscalls = append(slices.Clone(refusedFirst), p.Syscalls...)
	s, err := NewSeccomp(p)
	if err != nil {
		return nil, err
	}
	s.name = defaultName
	kept, _ := defaults.LoadOrStore(key, s)
	return kept.(*Seccomp), nil //nolint:forcetypeassert // no other is stored
}
