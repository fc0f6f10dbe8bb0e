package security

//go:generate go run gen_syscalls.go

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Seccomp is a checked seccomp profile, seccomp(2): which system calls a job may
// make, and what happens at others. It is never changed once made, so it may be
// used by many goroutines and containers.
//
// It means what an OCI profile says, with these rules where OCI's text is silent:
//
//   - Entries are asked in the order of the profile; the first that names the call
//     and whose arguments all match decides, else the default action does.
//   - Arguments are compared as the kernel gets them, all 64 bits.
//   - Where the default action refuses (errno, trap, kill), a call with a higher
//     number than every call that the profile names is answered ENOSYS: its writer
//     did not know it, and libraries then fall back to what they used before.
//   - Calls of another architecture, x32 among them, end the process.
type Seccomp struct {
	name    string
	profile specs.LinuxSeccomp

	mu       sync.Mutex
	programs map[string][]uint64 // compiled, by architecture
}

// SeccompError is what is wrong with a profile.
type SeccompError struct {
	Entry  int    // of syscalls, from 0; -1: about the whole
	Reason string // what is wrong, with the value
}

// Error names the entry and what is wrong with it.
func (e *SeccompError) Error() string {
	if e.Entry < 0 {
		return "seccomp profile: " + e.Reason
	}
	return fmt.Sprintf("seccomp profile: syscalls[%d]: %s", e.Entry, e.Reason)
}

// maxErrno is the largest errno that a filter can answer with: MAX_ERRNO.
const maxErrno = 4095

// ParseSeccomp reads an OCI profile, the "seccomp" object of config.json. All
// faults are reported together; each is a [*SeccompError].
func ParseSeccomp(text []byte) (*Seccomp, error) {
	var p specs.LinuxSeccomp
	d := json.NewDecoder(strings.NewReader(string(text)))
	if err := d.Decode(&p); err != nil {
		return nil, &SeccompError{-1, err.Error()}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &SeccompError{-1, "something follows the profile"}
	}
	return NewSeccomp(&p)
}

// NewSeccomp checks an OCI profile and copies it. A name that no architecture has is
// no fault, as in other runtimes: profiles name calls of many kernels.
func NewSeccomp(p *specs.LinuxSeccomp) (*Seccomp, error) {
	var errs []error
	add := func(entry int, format string, args ...any) {
		errs = append(errs, &SeccompError{entry, fmt.Sprintf(format, args...)})
	}
	check := func(entry int, a specs.LinuxSeccompAction, errno *uint) {
		switch {
		case actions[a] == nil:
			add(entry, "action %q does not exist", a)
		case errno != nil && !actions[a].data:
			add(entry, "errnoRet with %s, which has none", a)
		case errno != nil && (*errno > maxErrno || *errno == 0 && a == specs.ActErrno):
			add(entry, "errnoRet %d: from 1 to %d", *errno, maxErrno)
		}
	}
	check(-1, p.DefaultAction, p.DefaultErrnoRet)
	for _, f := range p.Flags {
		if _, ok := flags[f]; !ok {
			add(-1, "flag %q does not exist", f)
		}
	}
	for i, s := range p.Syscalls {
		check(i, s.Action, s.ErrnoRet)
		if len(s.Names) == 0 {
			add(i, "no names")
		}
		if slices.Contains(s.Names, "") {
			add(i, "an empty name")
		}
		for _, a := range s.Args {
			if a.Index > 5 {
				add(i, "argument %d: from 0 to 5", a.Index)
			}
			if !operators[a.Op] {
				add(i, "operator %q does not exist", a.Op)
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	text, err := json.Marshal(p) // a copy in depth
	if err != nil {
		return nil, &SeccompError{-1, err.Error()}
	}
	s := &Seccomp{name: "profile"}
	if err := json.Unmarshal(text, &s.profile); err != nil {
		return nil, &SeccompError{-1, err.Error()}
	}
	return s, nil
}

var operators = map[specs.LinuxSeccompOperator]bool{
	specs.OpEqualTo: true, specs.OpNotEqual: true, specs.OpGreaterThan: true, specs.OpGreaterEqual: true,
	specs.OpLessThan: true, specs.OpLessEqual: true, specs.OpMaskedEqual: true,
}

// action is what the kernel knows an action by.
type action struct {
	value   uint32 // SECCOMP_RET_*
	data    bool   // its low 16 bits are given
	refuses bool   // unknown calls are answered ENOSYS instead
}

var actions = map[specs.LinuxSeccompAction]*action{
	specs.ActKill:        {0x00000000, false, true},
	specs.ActKillThread:  {0x00000000, false, true},
	specs.ActKillProcess: {0x80000000, false, true},
	specs.ActTrap:        {0x00030000, false, true},
	specs.ActErrno:       {0x00050000, true, true},
	specs.ActTrace:       {0x7ff00000, true, false},
	specs.ActLog:         {0x7ffc0000, false, false},
	specs.ActAllow:       {0x7fff0000, false, false},
	specs.ActNotify:      {0x7fc00000, false, false},
}

const (
	eperm  = 1
	enosys = 38
)

// verdict is what a filter returns for an action. An errno that is not given is
// EPERM, as everywhere.
func verdict(a specs.LinuxSeccompAction, errno *uint) uint32 {
	v := actions[a].value
	switch {
	case !actions[a].data:
	case errno != nil:
		v |= uint32(*errno)
	default:
		v |= eperm
	}
	return v
}

const (
	unknownCall = 0x00050000 | enosys
	foreignArch = 0x80000000 // kill the process
)

// Seccomp filters' flags, seccomp(2).
const (
	flagLog        = 2
	specAllow      = 4 // speculation as without a filter: what other runtimes do
	flagKillable   = 32
	unconfinedName = "unconfined"
	defaultName    = "default"
)

var flags = map[specs.LinuxSeccompFlag]uint64{
	"SECCOMP_FILTER_FLAG_TSYNC":            0, // a job begins with one thread
	specs.LinuxSeccompFlagLog:              flagLog,
	specs.LinuxSeccompFlagSpecAllow:        specAllow,
	specs.LinuxSeccompFlagWaitKillableRecv: flagKillable,
}

// Unconfined is no profile: every system call that the kernel has. What the job may
// do then depends on its capabilities and namespaces alone.
func Unconfined() *Seccomp { return &Seccomp{name: unconfinedName} }

// Confines tells whether there is a filter: not with Unconfined.
func (s *Seccomp) Confines() bool { return s.name != unconfinedName }

// String names the profile: "default", "unconfined", else "profile".
func (s *Seccomp) String() string { return s.name }

// Flags are those of seccomp(2). Without any in the profile speculative execution
// stays as it is without a filter.
func (s *Seccomp) Flags() uint64 {
	if s.profile.Flags == nil {
		return specAllow
	}
	var all uint64
	for _, f := range s.profile.Flags {
		all |= flags[f]
	}
	return all
}

// Notifies tells whether the profile has calls answered by another process.
func (s *Seccomp) Notifies() bool {
	return s.profile.DefaultAction == specs.ActNotify ||
		slices.ContainsFunc(s.profile.Syscalls, func(e specs.LinuxSyscall) bool { return e.Action == specs.ActNotify })
}

// MarshalJSON gives the OCI profile, or "unconfined".
func (s *Seccomp) MarshalJSON() ([]byte, error) {
	if !s.Confines() {
		return json.Marshal(unconfinedName)
	}
	return json.Marshal(s.profile)
}

// UnmarshalJSON reads what MarshalJSON gives, as ParseSeccomp does, into a new
// Seccomp alone: one that was made already is perhaps another container's too.
func (s *Seccomp) UnmarshalJSON(text []byte) error {
	if s.name != "" {
		return &SeccompError{-1, "decoded into a profile that was made already"}
	}
	if string(text) == `"`+unconfinedName+`"` {
		s.name = unconfinedName
		return nil
	}
	p, err := ParseSeccomp(text)
	if err != nil {
		return err
	}
	s.name, s.profile = p.name, p.profile
	return nil
}

// newest is the highest number that the profile names; -1: none.
func (s *Seccomp) newest(numbers map[string]uint32) int64 {
	newest := int64(-1)
	for _, e := range s.profile.Syscalls {
		for _, name := range e.Names {
			if n, ok := numbers[name]; ok {
				newest = max(newest, int64(n))
			}
		}
	}
	return newest
}

// x32 marks the calls of x86-64's third architecture; -1 is no call at all, which
// ptrace(2) asks for to have one skipped.
const (
	x32    = 0x40000000
	noCall = 0xffffffff
)

// call is the verdict on a system call, in the slow and plain way that the compiled
// filter is tested against, and the entry that gave it; -1: none did.
func (s *Seccomp) call(arch string, nr uint32, args [6]uint64) (v uint32, entry int) {
	numbers := syscallNumbers[arch]
	if arch == "amd64" && nr >= x32 && nr != noCall {
		return foreignArch, -1
	}
	for i, e := range s.profile.Syscalls {
		if slices.ContainsFunc(e.Names, func(name string) bool { n, ok := numbers[name]; return ok && n == nr }) && matches(e.Args, args) {
			return verdict(e.Action, e.ErrnoRet), i
		}
	}
	if int64(nr) > s.newest(numbers) {
		return s.unnamed(true), -1
	}
	return s.unnamed(false), -1
}

// unnamed is the verdict on calls that no entry decides; newer, on those with
// higher numbers than all that are named.
func (s *Seccomp) unnamed(newer bool) uint32 {
	if newer && actions[s.profile.DefaultAction].refuses {
		return unknownCall
	}
	return verdict(s.profile.DefaultAction, s.profile.DefaultErrnoRet)
}

func matches(conditions []specs.LinuxSeccompArg, args [6]uint64) bool {
	for _, c := range conditions {
		v := args[c.Index]
		ok := false
		switch c.Op {
		case specs.OpEqualTo:
			ok = v == c.Value
		case specs.OpNotEqual:
			ok = v != c.Value
		case specs.OpGreaterThan:
			ok = v > c.Value
		case specs.OpGreaterEqual:
			ok = v >= c.Value
		case specs.OpLessThan:
			ok = v < c.Value
		case specs.OpLessEqual:
			ok = v <= c.Value
		case specs.OpMaskedEqual:
			ok = v&c.Value == c.ValueTwo
		}
		if !ok {
			return false
		}
	}
	return true
}

// Explain tells what happens at a system call with these arguments, on that
// architecture ("amd64", "arm64"), and which entry of the profile says so.
func (s *Seccomp) Explain(arch, name string, args ...uint64) string {
	if !s.Confines() {
		return name + ": allowed, without a filter"
	}
	numbers := syscallNumbers[arch]
	nr, ok := numbers[name]
	if !ok {
		return fmt.Sprintf("%s: %s has no such system call", name, arch)
	}
	var all [6]uint64
	copy(all[:], args)
	v, entry := s.call(arch, nr, all)
	why := "the default action"
	switch {
	case entry >= 0:
		why = fmt.Sprintf("syscalls[%d]", entry)
	case v == unknownCall:
		why = "newer than every call that the profile names"
	}
	return fmt.Sprintf("%s (%d): %s, by %s", name, nr, show(v), why)
}

// Allows tells whether the profile lets the call through, unseen by anybody else,
// with these arguments; the others are 0.
func (s *Seccomp) Allows(arch, name string, args ...uint64) bool {
	if !s.Confines() {
		return true
	}
	nr, ok := syscallNumbers[arch][name]
	if !ok {
		return false
	}
	var all [6]uint64
	copy(all[:], args)
	v, _ := s.call(arch, nr, all)
	return v == actions[specs.ActAllow].value
}

// show is a verdict in words.
func show(v uint32) string {
	for _, a := range []specs.LinuxSeccompAction{
		specs.ActKillThread, specs.ActKillProcess, specs.ActTrap, specs.ActErrno, specs.ActTrace, specs.ActLog, specs.ActAllow, specs.ActNotify,
	} {
		if actions[a].value == v&0xffff0000 {
			if actions[a].data {
				return fmt.Sprintf("%s(%d)", a, v&0xffff)
			}
			return string(a)
		}
	}
	return fmt.Sprintf("%#x", v)
}
