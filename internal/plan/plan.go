package plan

import (
	"fmt"
	"io"
	"strings"
)

// MaxRegisters is how many results one container can keep.
const MaxRegisters = 2048

// Reg is a register: the place of a result that later steps use.
type Reg struct {
	n    int
	name string
}

// Index returns the register's number, by which the launcher puts the
// descriptors that came with a request into it.
func (r Reg) Index() int { return r.n }

// Arg is one argument of a step.
type Arg struct {
	kind  argKind
	value uint64
}

type argKind uint8

const (
	argImm argKind = iota // the value itself
	argPtr                // an offset into the plan's data
	argReg                // a register's content
)

// Imm is an argument known while building.
func Imm[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{argImm, uint64(v)}
}

// Arg is the register's content as an argument.
func (r Reg) Arg() Arg { return Arg{argReg, uint64(r.n)} }

// Step is one system call, complete before the fork: whoever runs it may not
// allocate, lock, grow its stack or call back into Go.
type Step struct {
	Call     Call
	Args     [6]Arg
	Dst      int      // register for the result, or -1
	Tolerate []uint32 // errnos that count as done, at most four
	Label    string   // for people, in strace's manner; stays on the host
	Path     string   // what it acts upon, for errors; may be empty
	Op       string   // the call's name, for errors
	Hint     string   // what it is for, in the host's words; may be empty
	Untimed  bool     // the time before it cannot be taken
}

// Plan is a list of steps with their data.
type Plan struct {
	Phase  Phase
	Steps  []Step
	Timed  bool // the interpreter takes the time of each step
	data   []byte
	relocs []uint32 // where the data holds an offset that must become an address
	from   *Builder // whose memory it is; nil: its own
}

// Phase names the plan and so the process that runs it.
type Phase string

// The six plans of a container, in the order in which they run.
const (
	Prepare  Phase = "prepare"  // the launcher, before the clone
	StepIn   Phase = "step-in"  // a short-lived child of the launcher
	Parent   Phase = "parent"   // the launcher, after the clone
	Child    Phase = "child"    // init
	Exec     Phase = "exec"     // the job, before execve
	Teardown Phase = "teardown" // the launcher, after init's end
)

// Explain prints one numbered line a step.
func (p *Plan) Explain(w io.Writer) error {
	var b strings.Builder
	for i, s := range p.Steps {
		fmt.Fprintf(&b, "%-8s %3d  %s\n", p.Phase, i+1, s.Label)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
