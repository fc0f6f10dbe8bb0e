package security

import (
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxFilter is how many instructions a filter may have: BPF_MAXINSNS.
const maxFilter = 4096

// auditArch is what the kernel calls an architecture: AUDIT_ARCH_*.
var auditArch = map[string]uint32{"amd64": 0xc000003e, "arm64": 0xc00000b7}

// Compile returns the profile as the kernel takes it, for one architecture ("amd64",
// "arm64"): classic BPF, an instruction in 64 bits (code, jt, jf, k from the lowest
// on). It is compiled once and kept. The numbers are merged into ranges with one
// decision each and searched in halves: the kernel runs a new filter once for every
// call that there is, so its length is what it costs to attach it.
//
// Of Unconfined it is empty. A profile that would need more than 4,096 instructions, or that does not list the
// architecture, is a [*SeccompError].
func (s *Seccomp) Compile(arch string) ([]uint64, error) {
	if !s.Confines() {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.programs[arch]; p != nil {
		return p, nil
	}
	if auditArch[arch] == 0 {
		return nil, &SeccompError{-1, fmt.Sprintf("there is no table of system calls for %q", arch)}
	}
	name := map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}[arch]
	if len(s.profile.Architectures) > 0 && !slices.Contains(s.profile.Architectures, name) {
		return nil, &SeccompError{-1, fmt.Sprintf("architectures %v: %s is not among them", s.profile.Architectures, name)}
	}
	a := assembler{returns: map[uint32]int{}, decisions: map[string]int{}}
	a.filter(s, arch)
	if len(a.code) > maxFilter {
		return nil, &SeccompError{-1, fmt.Sprintf("it needs %d instructions, of which the kernel takes %d", len(a.code), maxFilter)}
	}
	slices.Reverse(a.code)
	if s.programs == nil {
		s.programs = map[string][]uint64{}
	}
	s.programs[arch] = a.code
	return a.code, nil
}

// decision is what happens at a call: the first rule whose arguments match, else
// the last verdict.
type decision struct {
	rules []rule
	last  uint32
}

type rule struct {
	args    []specs.LinuxSeccompArg
	verdict uint32
}

// key tells decisions apart.
func (d decision) key() string { return fmt.Sprint(d.rules, d.last) }

// span is calls from one number on, up to the next span's.
type span struct {
	first    uint32
	decision decision
}

// spans are the decisions by number, neighbours with the same one merged.
func (s *Seccomp) spans(arch string) []span {
	numbers := syscallNumbers[arch]
	byNumber := map[uint32]decision{}
	closed := map[uint32]bool{} // an entry without arguments has decided
	for _, e := range s.profile.Syscalls {
		for _, name := range e.Names {
			nr, ok := numbers[name]
			if !ok || closed[nr] {
				continue
			}
			d, there := byNumber[nr]
			if !there {
				d.last = s.unnamed(false)
			}
			if v := verdict(e.Action, e.ErrnoRet); len(e.Args) == 0 {
				d.last, closed[nr] = v, true
			} else {
				d.rules = append(d.rules, rule{e.Args, v})
			}
			byNumber[nr] = d
		}
	}
	var out []span
	add := func(first uint32, d decision) {
		if len(out) == 0 || out[len(out)-1].decision.key() != d.key() {
			out = append(out, span{first, d})
		}
	}
	next := uint32(0)
	for _, nr := range slices.Sorted(maps.Keys(byNumber)) {
		if nr > next {
			add(next, decision{last: s.unnamed(false)})
		}
		add(nr, byNumber[nr])
		next = nr + 1
	}
	newer := decision{last: s.unnamed(true)}
	add(next, newer)
	if arch == "amd64" {
		add(x32, decision{last: foreignArch})
		add(noCall, newer)
	}
	return out
}

// assembler writes a filter from its end to its beginning: all jumps of BPF lead
// forward, so what is jumped to is there already. A place is counted from the end.
type assembler struct {
	code      []uint64
	returns   map[uint32]int // the nearest one of each
	decisions map[string]int // with rules
}

// Classic BPF, and where struct seccomp_data has its fields.
const (
	opLoad, opAnd, opJump, opReturn      = 0x20, 0x54, 0x05, 0x06
	opEqual, opGreater, opAtLeast        = 0x15, 0x25, 0x35
	offsetNumber, offsetArch, offsetArgs = 0, 4, 16
	reach                                = 250 // less than 255: a jump may come between
)

func (a *assembler) add(code uint16, jt, jf uint8, k uint32) int {
	a.code = append(a.code, uint64(code)|uint64(jt)<<16|uint64(jf)<<24|uint64(k)<<32)
	return len(a.code) - 1
}

// near returns a place that a branch written next can reach, and that does the same.
func (a *assembler) near(to int) int {
	distance := len(a.code) - to - 1
	if distance <= reach {
		return to
	}
	if ins := a.code[to]; uint16(ins) == opReturn {
		a.code = append(a.code, ins)
		a.returns[uint32(ins>>32)] = len(a.code) - 1
		return len(a.code) - 1
	}
	return a.add(opJump, 0, 0, uint32(distance))
}

// branch compares what is loaded with k.
func (a *assembler) branch(code uint16, k uint32, yes, no int) int {
	yes = a.near(yes)
	no = a.near(no)
	from := len(a.code) - 1
	return a.add(code, uint8(from-yes), uint8(from-no), k)
}

func (a *assembler) load(offset uint32) int { return a.add(opLoad, 0, 0, offset) }

func (a *assembler) ret(verdict uint32) int {
	if at, ok := a.returns[verdict]; ok {
		return at
	}
	a.returns[verdict] = a.add(opReturn, 0, 0, verdict)
	return a.returns[verdict]
}

func (a *assembler) filter(s *Seccomp, arch string) {
	if tree := a.search(s.spans(arch)); tree != len(a.code)-1 {
		a.add(opJump, 0, 0, uint32(len(a.code)-tree-1))
	}
	calls := a.load(offsetNumber)
	a.branch(opEqual, auditArch[arch], calls, a.ret(foreignArch))
	a.load(offsetArch)
}

// search decides by number, which is loaded.
func (a *assembler) search(spans []span) int {
	if len(spans) == 1 {
		return a.decide(spans[0].decision)
	}
	half := len(spans) / 2
	high := a.search(spans[half:])
	low := a.search(spans[:half])
	if high == low {
		return low
	}
	return a.branch(opAtLeast, spans[half].first, high, low)
}

func (a *assembler) decide(d decision) int {
	if len(d.rules) == 0 {
		return a.ret(d.last)
	}
	key := d.key()
	if at, ok := a.decisions[key]; ok {
		return at
	}
	next := a.ret(d.last)
	for _, r := range slices.Backward(d.rules) {
		yes := a.ret(r.verdict)
		for _, c := range slices.Backward(r.args) {
			yes = a.condition(c, yes, next)
		}
		next = yes
	}
	a.decisions[key] = next
	return next
}

// condition compares one argument, its high half first.
func (a *assembler) condition(c specs.LinuxSeccompArg, yes, no int) int {
	if yes == no {
		return yes
	}
	high, low := offsetArgs+8*uint32(c.Index)+4, offsetArgs+8*uint32(c.Index)
	k, kHigh := uint32(c.Value), uint32(c.Value>>32)
	switch c.Op {
	case specs.OpNotEqual:
		yes, no = no, yes
		fallthrough
	case specs.OpEqualTo:
		a.branch(opEqual, k, yes, no)
		rest := a.load(low)
		a.branch(opEqual, kHigh, rest, no)
	case specs.OpMaskedEqual:
		if c.ValueTwo&^c.Value != 0 {
			return no // bits that the mask takes away
		}
		want, wantHigh := uint32(c.ValueTwo), uint32(c.ValueTwo>>32)
		a.branch(opEqual, want, yes, no)
		if k != 0xffffffff {
			a.add(opAnd, 0, 0, k)
		}
		if kHigh == 0 {
			return a.load(low)
		}
		rest := a.load(low)
		a.branch(opEqual, wantHigh, rest, no)
		a.add(opAnd, 0, 0, kHigh)
	case specs.OpLessEqual:
		yes, no = no, yes
		fallthrough
	case specs.OpGreaterThan:
		a.wide(opGreater, k, kHigh, low, yes, no)
	case specs.OpLessThan:
		yes, no = no, yes
		fallthrough
	case specs.OpGreaterEqual:
		a.wide(opAtLeast, k, kHigh, low, yes, no)
	}
	return a.load(high)
}

// wide compares by size.
func (a *assembler) wide(code uint16, k, kHigh, low uint32, yes, no int) {
	a.branch(code, k, yes, no)
	rest := a.load(low)
	equal := a.branch(opEqual, kHigh, rest, no)
	a.branch(opGreater, kHigh, yes, equal)
}
