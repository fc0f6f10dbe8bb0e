package security

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Landlock is what a job may still do of the things that Landlock restricts: plain
// data, made by [LandlockRule]s. What no rule speaks of is not restricted: with
// paths the file system is, with ports of one direction that direction is.
//
// Landlock is a second fence, beside what is mounted: within the root that a job
// sees, it narrows what this one job may open. It does not hold chmod(2), chown(2),
// stat(2), setxattr(2), utime(2), flock(2) and chdir(2), nor what a job was given
// open. See landlock(7) and Documentation/userspace-api/landlock.rst.
type Landlock struct {
	// Read are files, and folders with all below them, that may be read, listed
	// and executed. Write are those with which all may be done.
	Read  []string `json:"read,omitempty"`
	Write []string `json:"write,omitempty"`
	// Bind and Connect are TCP ports; nil is no restriction, and an empty list no
	// port at all.
	Bind    []uint16 `json:"bind,omitzero"`
	Connect []uint16 `json:"connect,omitzero"`
	// ScopeSignals and ScopeAbstractSockets keep the job from signalling, and from
	// connecting to the abstract sockets of, processes that are not its own
	// descendants' or its own.
	ScopeSignals         bool `json:"scope_signals,omitempty"`
	ScopeAbstractSockets bool `json:"scope_abstract_sockets,omitempty"`
}

// LandlockRule is one thing that a job may do, or a scope that it may not leave.
type LandlockRule func(*Landlock)

// AllowRead lets a job read and execute these files, and list these folders with
// all below them. Paths are absolute, as the job sees them, and there at its start.
// A program that is linked dynamically needs its libraries too: /usr, and /lib and
// /lib64 where they are no links into it.
func AllowRead(paths ...string) LandlockRule {
	return func(l *Landlock) { l.Read = append(slices.Clip(l.Read), paths...) }
}

// AllowWrite lets a job do all that it otherwise could with these files, and
// with all below these folders.
func AllowWrite(paths ...string) LandlockRule {
	return func(l *Landlock) { l.Write = append(slices.Clip(l.Write), paths...) }
}

// AllowBind lets a job listen at these TCP ports alone; without a port, at none.
// Port 0 is one that the kernel chooses. Linux 6.7. With a rule about ports, the
// protocols that carry TCP and that Landlock does not know, MPTCP and SMC, are
// refused (EPROTONOSUPPORT), as are io_uring(7) and calls of foreign architectures.
func AllowBind(ports ...uint16) LandlockRule {
	return func(l *Landlock) { l.Bind = append(append([]uint16{}, l.Bind...), ports...) }
}

// AllowConnect lets a job connect to these TCP ports alone, wherever; without a
// port, to none. Linux 6.7.
func AllowConnect(ports ...uint16) LandlockRule {
	return func(l *Landlock) { l.Connect = append(append([]uint16{}, l.Connect...), ports...) }
}

// ScopeSignals keeps a job from signalling processes outside of its own tree: the
// jobs beside it in the container. Linux 6.12.
func ScopeSignals() LandlockRule { return func(l *Landlock) { l.ScopeSignals = true } }

// ScopeAbstractSockets keeps a job from abstract unix(7) sockets made outside of its
// own tree. Linux 6.12.
func ScopeAbstractSockets() LandlockRule {
	return func(l *Landlock) { l.ScopeAbstractSockets = true }
}

// NewLandlock collects rules.
func NewLandlock(rules ...LandlockRule) *Landlock {
	l := &Landlock{}
	for _, r := range rules {
		if r != nil {
			r(l)
		}
	}
	return l
}

func (l *Landlock) files() bool { return len(l.Read)+len(l.Write) > 0 }

// Validate finds what no kernel could do.
func (l *Landlock) Validate() error {
	if !l.files() && l.Bind == nil && l.Connect == nil && !l.ScopeSignals && !l.ScopeAbstractSockets {
		return errors.New("no rule: nothing would be restricted")
	}
	for _, p := range slices.Concat(l.Read, l.Write) {
		switch {
		case !path.IsAbs(p):
			return fmt.Errorf("%q is not an absolute path", p)
		case strings.ContainsRune(p, 0) || len(p) > 4095:
			return fmt.Errorf("%.80q is no path: it holds a NUL byte or more than 4,095 others", p)
		}
	}
	if n := len(l.Read) + len(l.Write) + len(l.Bind) + len(l.Connect); n > maxLandlockRules {
		return fmt.Errorf("%d paths and ports, at most %d", n, maxLandlockRules)
	}
	return nil
}

// maxLandlockRules bounds the exec plan.
const maxLandlockRules = 256

// Versions of Landlock's ABI, by what they brought.
const (
	landlockFirst    = 1 // Linux 5.13
	landlockTruncate = 3 // 6.2
	landlockTCP      = 4 // 6.7
	landlockDevices  = 5 // 6.10
	landlockScopes   = 6 // 6.12
)

// Missing says what of the rules a kernel with this version of Landlock's ABI does
// not keep; nil where it keeps them all. Zero is a kernel without Landlock.
func (l *Landlock) Missing(abi int) []string {
	var out []string
	lacks := func(asked bool, version int, what string) {
		if asked && abi < version {
			out = append(out, what)
		}
	}
	lacks(l.files(), landlockFirst, "paths (Linux 5.13)")
	lacks(l.files() && abi >= landlockFirst, landlockTruncate, "that files outside are not truncated (Linux 6.2)")
	lacks(l.Bind != nil || l.Connect != nil, landlockTCP, "TCP ports (Linux 6.7)")
	lacks(l.ScopeSignals, landlockScopes, "the scope of signals (Linux 6.12)")
	lacks(l.ScopeAbstractSockets, landlockScopes, "the scope of abstract sockets (Linux 6.12)")
	return out
}

// String is short: what is restricted, and to how much.
func (l *Landlock) String() string {
	var parts []string
	add := func(on bool, format string, args ...any) {
		if on {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(l.files(), "%d paths to read, %d to write", len(l.Read), len(l.Write))
	add(l.Bind != nil, "bind to %d ports", len(l.Bind))
	add(l.Connect != nil, "connect to %d ports", len(l.Connect))
	add(l.ScopeSignals, "signals")
	add(l.ScopeAbstractSockets, "abstract sockets")
	return "landlock(" + strings.Join(parts, ", ") + ")"
}

// Access rights of include/uapi/linux/landlock.h.
const (
	accessExecute, accessWriteFile, accessReadFile, accessReadDir = 1 << 0, 1 << 1, 1 << 2, 1 << 3
	accessFirst, accessRefer, accessTruncate, accessIoctlDev      = 1<<13 - 1, 1 << 13, 1 << 14, 1 << 15

	// accessOfFiles are those that a rule for a file, not a folder, may have.
	accessOfFiles = accessExecute | accessWriteFile | accessReadFile | accessTruncate | accessIoctlDev

	accessBind, accessConnect = 1, 2
	scopeAbstract, scopeSig   = 1, 2
)

// handled are the rights that a kernel knows.
func handled(abi int) uint64 {
	var all uint64 = accessFirst
	for version, right := range map[int]uint64{2: accessRefer, landlockTruncate: accessTruncate, landlockDevices: accessIoctlDev} {
		if abi >= version {
			all |= right
		}
	}
	return all
}

// Restrict emits the steps by which a job restricts itself to the rules, as far as
// this version of the ABI keeps them. They come after no_new_privs, or while the job
// has CAP_SYS_ADMIN.
func (l *Landlock) Restrict(b *plan.Builder, arch plan.Arch, abi int) {
	var fs, net, scoped uint64
	if l.files() {
		fs = handled(abi)
	}
	if abi >= landlockTCP && l.Bind != nil {
		net |= accessBind
	}
	if abi >= landlockTCP && l.Connect != nil {
		net |= accessConnect
	}
	if abi >= landlockScopes && l.ScopeAbstractSockets {
		scoped |= scopeAbstract
	}
	if abi >= landlockScopes && l.ScopeSignals {
		scoped |= scopeSig
	}
	if fs|net|scoped == 0 || abi == 0 {
		return
	}
	// An older kernel takes a longer structure whose end is zero.
	attr := binary.LittleEndian.AppendUint64(nil, fs)
	attr = binary.LittleEndian.AppendUint64(attr, net)
	attr = binary.LittleEndian.AppendUint64(attr, scoped)
	rules := b.LandlockCreateRuleset(attr)
	for _, p := range l.Read {
		allow(b, rules, p, fs&(accessExecute|accessReadFile|accessReadDir))
	}
	for _, p := range l.Write {
		allow(b, rules, p, fs)
	}
	ports := func(list []uint16, right uint64) {
		for _, port := range list {
			b.LandlockAddPort(rules, uint64(port), right&net)
		}
	}
	if abi >= landlockTCP {
		ports(l.Bind, accessBind)
		ports(l.Connect, accessConnect)
	}
	b.LandlockRestrictSelf(rules)
	b.Close(rules)
	if net != 0 {
		filter, err := noOtherTCP().Compile(string(arch))
		if err != nil {
			panic("inlay: bug: " + err.Error()) // it has two rules
		}
		b.Seccomp(filter, specAllow, "no TCP but the one that Landlock knows")
	}
}

// noOtherTCP closes what carries TCP and is no TCP socket to Landlock: MPTCP, which
// Go's own listeners are by default, SMC, and io_uring's way to sockets. Programs
// take EPROTONOSUPPORT for a kernel without it.
var noOtherTCP = sync.OnceValue(func() *Seccomp {
	const afSMC, protoSMC, protoMPTCP = 43, 256, 262
	noProtocol, noCall := uint(93), uint(enosys)
	refuse := func(args []specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{"socket", "socketpair"}, Action: specs.ActErrno, ErrnoRet: &noProtocol, Args: args}
	}
	s, err := NewSeccomp(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{
			refuse(is(2, protoMPTCP)), refuse(is(2, protoSMC)), refuse(is(0, afSMC)),
			{Names: []string{"io_uring_setup"}, Action: specs.ActErrno, ErrnoRet: &noCall},
		},
	})
	if err != nil {
		panic("inlay: bug: " + err.Error())
	}
	s.name = "no other TCP"
	return s
})

// allow adds a rule for one path. A rule for a file may have fewer rights than one
// for a folder, EINVAL; which it is nobody knows before the start. A second rule for
// the same folder, with fewer rights, changes nothing.
func allow(b *plan.Builder, rules plan.Reg, p string, rights uint64) {
	const einval = 22
	fd := b.Openat2(plan.CWD, p, plan.OPATH|plan.OCLOEXEC, 0, plan.ResolveNoMagicLinks, "beneath")
	b.Hint(p, "the paths of WithLandlock must be there when the job starts")
	b.LandlockAddPath(rules, fd, rights, p)
	b.Tolerate(einval)
	b.LandlockAddPath(rules, fd, rights&accessOfFiles, p)
	b.Close(fd)
}
