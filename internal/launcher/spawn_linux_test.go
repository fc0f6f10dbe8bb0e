package launcher

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	_ "github.com/inlay-dev/inlay/internal/launcher/boot"
	"github.com/inlay-dev/inlay/internal/plan"
)

// One container by hand: plans in, exit report out.
func TestSpawn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the maps are root's")
	}
	ctx := t.Context()
	l, err := Acquire(ctx)
	require.NoError(t, err)
	defer l.Release()
	for range 20 {
		regs := &plan.Registers{}
		regs.New("sock")
		proc := regs.New("proc")
		pb := plan.NewBuilder(plan.Parent, Arch, regs)
		for _, f := range []string{"uid_map", "gid_map"} {
			r := pb.Openat(proc.At(), f, plan.OWRONLY|plan.OCLOEXEC, 0, f)
			pb.Write(r, []byte("0 524288 65536"), f)
		}
		parent, err := pb.Plan().Encode(Arch)
		require.NoError(t, err)
		cb := plan.NewBuilder(plan.Child, Arch, regs)
		cb.Setresgid(65535)
		cb.Setresuid(65535)
		cb.Propagation("/", plan.MSRec|plan.MSPrivate)
		cb.LinkUp("lo")
		child, err := cb.Plan().Encode(Arch)
		require.NoError(t, err)
		empty, err := plan.NewBuilder(plan.Child, Arch, regs).Plan().Encode(Arch)
		require.NoError(t, err)
		in, err := l.Spawn(ctx, &Request{Clone: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, Plans: parent, Parent: len(parent), ProcReg: proc.Index()})
		require.NoError(t, err)
		require.NoError(t, in.Setup(ctx, append(empty, child...), len(empty), false, nil, Given{}, 0))
		eb := plan.NewBuilder(plan.Exec, Arch, &plan.Registers{})
		a := eb.Strings([]string{"true"})
		eb.Execve("/bin/true", a, eb.Strings(nil), 1, 0)
		ex, err := eb.Plan().Encode(Arch)
		require.NoError(t, err)
		// The job is the callback's argument: it may be called before Start returns.
		ended := make(chan *Job, 1)
		j, err := in.Start(ctx, &JobRequest{Plan: ex, Main: true, Finish: true, OnExit: func(j *Job) { ended <- j }})
		require.NoError(t, err)
		require.NoError(t, in.Ready(ctx))
		<-j.Started
		require.NoError(t, j.Err())
		<-j.Exited
		require.True(t, j.Exit().Status.Exited())
		require.Zero(t, j.Exit().Status.ExitStatus())
		require.Same(t, j, <-ended)
		require.NoError(t, in.Close(context.Background()))
	}
}
