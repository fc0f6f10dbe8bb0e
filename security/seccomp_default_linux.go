package security

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaults are the default profiles that were asked for, by capabilities.
var defaults sync.Map

// DefaultSeccomp is Docker's default profile for a job with these capabilities
// ("CAP_NET_ADMIN"): about 360 calls, some of them for certain arguments alone;
// others are answered EPERM, and ones newer than the profile ENOSYS. A capability
// opens the calls that are about it. Made once for each set; for concurrent use.
//
// Two things are refused besides. Sockets of other families than AF_UNIX, AF_INET,
// AF_INET6, AF_NETLINK and AF_PACKET are answered EAFNOSUPPORT: no namespace holds
// AF_VSOCK and AF_ALG, and for any that it does not have yet the kernel loads a module,
// whoever asks. Protocols likewise, with EPROTONOSUPPORT: of AF_INET and AF_INET6 there
// are TCP, UDP, UDP-Lite, ICMP and MPTCP, and raw sockets of all (CAP_NET_RAW); of
// AF_NETLINK routes and kernel events, and all with CAP_NET_ADMIN. And the commands TIOCSTI and TIOCLINUX of ioctl(2). The kernel takes 32
// bits of these arguments, which is minded: Docker's own rule against AF_VSOCK compares
// 64 and lets 1<<32|40 pass.
func DefaultSeccomp(capabilities []string) (*Seccomp, error) {
	return defaultWith(defaultName, nil, capabilities)
}

// NestingSeccomp is DefaultSeccomp for a job that may make user namespaces: it has
// the calls by which namespaces, mounts and roots are made besides.
func NestingSeccomp(capabilities []string) (*Seccomp, error) {
	return defaultWith(nestingName, nesting, capabilities)
}

const nestingName = "default, with namespaces"

// nesting are the calls that a container inside needs; each is about the caller's own
// user namespace to the kernel.
var nesting = []specs.LinuxSyscall{{Action: specs.ActAllow, Names: []string{
	"clone", "clone3", "unshare", "setns", "sethostname", "setdomainname", "chroot", "pivot_root", "mount", "umount", "umount2",
	"open_tree", "move_mount", "mount_setattr", "fsopen", "fsconfig", "fsmount", "fspick",
}}}

// sockets are the families and protocols of programs. Whoever asks for one that the
// kernel does not have yet makes it load a module, as the host's root, before it looks at
// the caller's rights; netlink's sock_diag and generic do so for what is asked of them.
func sockets(capabilities []string) []specs.LinuxSyscall {
	const (
		both       = 1 << 3 // AF_INET6 is AF_INET with this bit
		kind       = 0xf    // of a type, beside SOCK_CLOEXEC and SOCK_NONBLOCK
		rdm, pack  = 1 << 2, 1 << 3
		noProtocol = uint(unix.EPROTONOSUPPORT)
		protocol   = 2
		byType     = 0 // the usual one
	)
	masked := func(index uint, mask, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Value: mask, ValueTwo: value, Op: specs.OpMaskedEqual}
	}
	inet, netlink := masked(0, low&^both, unix.AF_INET), masked(0, low, unix.AF_NETLINK)
	var list []specs.LinuxSyscall
	add := func(answer uint, args ...specs.LinuxSeccompArg) {
		s := specs.LinuxSyscall{Names: []string{"socket", "socketpair"}, Action: specs.ActAllow, Args: args}
		if answer != 0 {
			s.Action, s.ErrnoRet = specs.ActErrno, &answer
		}
		list = append(list, s)
	}
	add(0, masked(0, low, unix.AF_UNIX))
	add(0, inet, masked(1, kind, unix.SOCK_RAW)) // of any protocol: the kernel has it
	for _, t := range []uint64{rdm, pack} {      // SOCK_RDM, SOCK_SEQPACKET, SOCK_DCCP; SOCK_PACKET
		add(noProtocol, inet, masked(1, t, t))
	}
	for _, p := range []uint64{byType, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_UDPLITE, unix.IPPROTO_MPTCP} {
		add(0, inet, masked(protocol, low, p))
	}
	for _, p := range []uint64{unix.NETLINK_ROUTE, unix.NETLINK_KOBJECT_UEVENT} {
		add(0, netlink, masked(protocol, low, p))
	}
	if slices.Contains(capabilities, "CAP_NET_ADMIN") {
		add(0, netlink)
	}
	add(noProtocol, inet)
	add(noProtocol, netlink)
	add(0, masked(0, low, unix.AF_PACKET))
	add(noFamily)
	return list
}

func defaultWith(name string, more []specs.LinuxSyscall, capabilities []string) (*Seccomp, error) {
	sorted := slices.Sorted(slices.Values(capabilities))
	key := name + ": " + strings.Join(sorted, " ")
	if s, ok := defaults.Load(key); ok {
		return s.(*Seccomp), nil //nolint:forcetypeassert // no other is stored
	}
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: sorted}}})
	if err != nil {
		return nil, fmt.Errorf("the default seccomp profile: %w", err)
	}
	p.Syscalls = slices.Concat(refusedFirst, sockets(sorted), more, p.Syscalls)
	s, err := NewSeccomp(p)
	if err != nil {
		return nil, err
	}
	s.name = name
	kept, _ := defaults.LoadOrStore(key, s)
	return kept.(*Seccomp), nil //nolint:forcetypeassert // no other is stored
}
