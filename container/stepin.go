package container

import (
	"fmt"

	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// stepInOrder is the order in which namespaces are joined: PID first, since a /proc is
// mounted in it before the clocks are another's (a child that shares memory cannot be
// made after that), and User last, which takes the power over the others.
var stepInOrder = []namespace.Kind{namespace.PID, namespace.IPC, namespace.UTS, namespace.Network, namespace.Time, namespace.User}

// newTime tells that the container has clocks of its own.
func (s *Spec) newTime(h *host) bool { return s.isNew(namespace.Time) && !h.noTime }

// compileStepIn makes the plan of the process that joins namespaces and sets clocks;
// files are the namespaces' registers, in the order of s.Join. nil: nothing is to be
// done. proc is the /proc of a PID namespace that is joined.
func compileStepIn(s *Spec, h *host, b *plan.Builder, files []plan.Reg) (p *plan.Plan, proc *plan.Reg) {
	for _, k := range stepInOrder {
		if k == namespace.Time && s.newTime(h) {
			namespace.NewTime(b, s.TimeOffsets)
		}
		for i := range s.Join {
			j := &s.Join[i]
			if j.Kind != k {
				continue
			}
			if k == namespace.User {
				// Before anybody there can see it: see compileInit.
				b.Prctl(prSetDumpable, "PR_SET_DUMPABLE", 0)
			}
			namespace.Join(b, k, files[i], j.what())
			if k == namespace.PID {
				b.InChild("the namespace's first process has ended, or a limit of processes or memory is reached", func() { proc = mountProc(b, h) })
			}
		}
	}
	return b.Plan(), proc
}

// mountProc makes the /proc of a PID namespace that is not the container's own: its
// init has no power over that. The group that sees all is the container's root's, in
// the launcher's ids.
func mountProc(b *plan.Builder, h *host) *plan.Reg {
	gid := uint32(0)
	if len(h.gids) > 0 {
		gid, _ = namespace.ToHost(h.gids, 0) // without a group 0 nobody is in it
	}
	m := rootfs.MountProc(b, gid)
	return &m
}

// what names the namespace in errors and in Explain.
func (j *Join) what() string {
	switch {
	case j.Path != "":
		return j.Path
	case j.Container != "":
		return fmt.Sprintf("%s of container %s", j.Kind, j.Container)
	default:
		return fmt.Sprintf("%s by file", j.Kind)
	}
}
