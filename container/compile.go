package container

import (
	"slices"
	"strings"
	"time"

	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// host is all that compiling needs to know of the machine: tests make one up,
// so that plans are the same on any operating system.
type host struct {
	arch    plan.Arch
	machine *rootfs.Machine
	// uids and gids are the container's maps, empty without a user namespace.
	uids, gids []namespace.IDMap
	// outer is the launcher's own map, where it has one: the ids on the right of
	// uids are then the launcher's.
	outer, outerGIDs []launcher.IDMap
	// initUID and initGID are init's ids inside.
	initUID, initGID uint32
	// setgroups tells that setgroups(2) may be called.
	setgroups bool
	// hard are the host program's own hard limits: no job can have more.
	hard map[string]uint64
	// countsProcesses tells that RLIMIT_NPROC counts the container's processes
	// alone.
	countsProcesses bool
	// pidsByGroup tells that a control group limits them.
	pidsByGroup bool
	// remount tells that the kernel has no mount_setattr(2).
	remount bool
	// noTime tells that the kernel has no time namespaces, and the request goes without.
	noTime bool
	// killFile ends all of a container whose PID namespace is not its own, when its init
	// has ended: a file cgroup.kill.
	killFile string
	// seccomp tells that jobs have a filter.
	seccomp bool
	// landlock is the version of Landlock's ABI, where a job has rules.
	landlock    int
	sourceIsDir map[string]bool
	// mapRoot names the root's folders that have to be mapped to belong to the
	// container's users.
	mapRoot map[string]bool
	// workspaces are who owns the folders of workspaces.
	workspaces map[string]rootfs.Owner
	// nodes tells what the devices are; one that is not there is left out. sysMasked is
	// what sysfs has that is covered.
	nodes     map[string]rootfs.Node
	sysMasked []string
	// tree is what the root is filled with, where it is made.
	tree *rootfs.Tree
	// partIsFile tells which mounts are files of other containers.
	partIsFile map[int]bool
	// resolv and hosts are the host's own files, for a container on its network, or those
	// of a network that says what they are: then named is set.
	resolv, hosts []byte
	named         bool
}

// newBuilder is plan.NewBuilder, for people, or plan.NewSilentBuilder, for a launch.
type newBuilder = func(plan.Phase, plan.Arch, *plan.Registers) *plan.Builder

// plans are what one container is made by.
type plans struct {
	clone           uint64
	prepare, parent *plan.Plan
	stepIn          *plan.Plan // nil: the launcher clones init itself
	teardown        *plan.Plan // nil: nothing is left to do at init's end
	shape, child    *plan.Plan // init's, one after the other; not there before finish
	procReg         int
	kept            []int  // registers of folders that init keeps
	given           int    // the first register of the descriptors that init gets with its plan
	finish          func() // compiles init's part
}

const (
	sigkill         = 9
	capNone         = 0
	prSetPdeathsig  = 1
	prSetDumpable   = 4
	prSetKeepCaps   = 8
	prSetSubreaper  = 36
	prSetNoNewPrivs = 38
	cloneNewCgroup  = 0x02000000
	allCaps         = 1<<41 - 1
)

// compile makes the plans of a container. It is pure: compiled again with
// labels, they say what a step was.
func compile(s *Spec, h *host, builder newBuilder) *plans {
	p := compileLauncher(s, h, builder)
	p.finish()
	return p
}

// compileLauncher makes the launcher's plans; finish makes init's, while the
// launcher is at work.
func compileLauncher(s *Spec, h *host, builder newBuilder) *plans {
	regs := &plan.Registers{}
	regs.New("init socket")
	joined := make([]plan.Reg, len(s.Join))
	for i := range s.Join {
		joined[i] = regs.New(s.Join[i].what())
	}
	proc := regs.New("proc of init")
	prepare := builder(plan.Prepare, h.arch, regs)
	parent := builder(plan.Parent, h.arch, regs)
	p := &plans{procReg: proc.Index()}
	for _, k := range s.newNamespaces() {
		// The cgroup namespace is made by each job, once it is in its group; clone3(2)
		// leaves no time to set the clocks of a new time namespace.
		if k != namespace.Cgroup && k != namespace.Time {
			p.clone |= k.CloneFlag()
		}
	}
	if s.isNew(namespace.User) {
		namespace.WriteMaps(parent, proc, h.uids, h.gids, false)
	}
	build := &rootfs.Build{
		Prepare: prepare, Parent: parent, InitProc: proc, Machine: h.machine, Root: s.root(), Mounts: s.Mounts, Files: s.Files,
		Identity: rootfs.Identity{Hostname: s.hostname(), UID: s.Job.uid(), GID: s.Job.gid(), Resolv: h.resolv, Hosts: h.hosts, Cover: h.named},
		Symlinks: s.Symlinks, Devices: s.devices(h), Nodes: h.nodes, SysMasked: h.sysMasked,
		SourceIsDir: h.sourceIsDir, NewIPC: s.isNew(namespace.IPC),
		Sysctls: s.sysctlPaths(), NoUserNamespaces: s.isNew(namespace.User) && !s.UserNamespaceCreation,
		MapRoot: h.mapRoot, MapMounts: !s.hostUser() && h.outer == nil, Workspaces: h.workspaces, UID: s.Job.uid(), GID: s.Job.gid(),
		Remount:  h.remount,
		HostRoot: s.hostUser() || h.outer == nil && namespace.Mapped(h.uids, 0),
	}
	p.given = regs.Count()
	if h.tree != nil {
		build.Tree = h.tree
		build.Contents = regs.New("contents")
	}
	build.Parts, build.PartIsFile = map[int]plan.Reg{}, h.partIsFile
	for i, m := range s.Mounts {
		if m.Type == "container" {
			build.Parts[i] = regs.New("part of " + m.Source)
		}
	}
	build.CompilePrepare()
	if len(s.Join) > 0 || s.newTime(h) {
		p.stepIn, build.Proc = compileStepIn(s, h, builder(plan.StepIn, h.arch, regs), joined)
	}
	if !s.isNew(namespace.PID) {
		if build.Proc == nil {
			build.Proc = mountProc(prepare, h)
		}
		p.teardown = compileTeardown(h, builder(plan.Teardown, h.arch, regs))
	}
	p.prepare, p.parent = prepare.Plan(), parent.Plan()
	p.finish = func() {
		build.Shape, build.Child = builder(plan.Child, h.arch, regs), builder(plan.Child, h.arch, regs)
		compileInit(s, h, build)
		p.shape, p.child = build.Shape.Plan(), build.Child.Plan()
		for _, r := range build.Kept {
			p.kept = append(p.kept, r.Index())
		}
	}
	return p
}

// compileTeardown makes the plan that ends all of a container whose PID namespace is
// not its own: nothing there ends with init.
func compileTeardown(h *host, b *plan.Builder) *plan.Plan {
	const enoent, ebadf, enodev = 2, 9, 19
	f := b.Openat(plan.CWD, h.killFile, plan.OWRONLY|plan.OCLOEXEC, 0, "cgroup.kill")
	b.Tolerate(enoent) // the group is gone, or never was
	b.Write(f, []byte("1"), h.killFile)
	b.Tolerate(ebadf, enodev)
	b.Close(f)
	b.Tolerate(ebadf)
	return b.Plan()
}

// compileInit makes both halves of init's plan.
func compileInit(s *Spec, h *host, build *rootfs.Build) {
	shape, child, newUser := build.Shape, build.Child, !s.hostUser()
	if newUser {
		// Until here init still is the host's own id, whatever its maps say. The
		// new one is init's alone: no job can signal it or change its limits.
		if h.setgroups {
			shape.Setgroups(nil)
		}
		// In a user namespace that others are in, who may trace there could see it before
		// it is its own (CVE-2016-9962); a change of ids can open it again, see compileJob.
		hide := func() {
			if s.joins(namespace.User) != nil {
				shape.Prctl(prSetDumpable, "PR_SET_DUMPABLE", 0)
			}
		}
		// Where the host's root is the container's, leaving it would cost all
		// capabilities.
		shape.Prctl(prSetKeepCaps, "PR_SET_KEEPCAPS", 1)
		shape.Setresgid(h.initGID)
		hide()
		shape.Setresuid(h.initUID)
		hide()
		shape.Capset(allCaps, allCaps, capNone)
		if h.initUID != 0 {
			// What is made from here on belongs to root inside; an effective id of 0
			// would be the job's.
			shape.Setfsgid(0)
			hide()
			shape.Setfsuid(0)
			hide()
		}
	}
	shape.Umask(0)
	build.Compile()
	if s.isNew(namespace.UTS) {
		child.Sethostname(s.hostname())
		if s.Domainname != nil {
			child.Setdomainname(*s.Domainname)
		}
	}
	if s.isNew(namespace.Network) {
		child.LinkUp("lo")
	}
	if newUser && h.initUID != 0 {
		// Leaving fsuid 0 took the file capabilities from the effective set; init
		// needs them to open what it is asked for.
		child.Setfsgid(h.initGID)
		child.Setfsuid(h.initUID)
		child.Capset(allCaps, allCaps, capNone)
	}
	// After the ids: setresuid clears both. Non-dumpable is what keeps even a
	// container's root with all capabilities out of init's memory, descriptors and
	// /proc/1/exe (CVE-2019-5736): init was never exec'ed, so the kernel asks for
	// rights in the host's user namespace.
	if !s.isNew(namespace.PID) {
		// What a job leaves behind is init's, as if it were PID 1.
		child.Prctl(prSetSubreaper, "PR_SET_CHILD_SUBREAPER", 1)
	}
	child.Prctl(prSetPdeathsig, "PR_SET_PDEATHSIG", sigkill)
	child.Prctl(prSetDumpable, "PR_SET_DUMPABLE", 0)
}

// stdio is what the exec plan needs to know of a job's descriptors: the first
// three and the extra files are registers from 0 on.
type stdio struct {
	count int
	// terminal tells that the first three are a terminal's slave, of which the first
	// register has the master; the extra files follow.
	terminal bool
	// chown tells for each register whether init gives it to the job's user.
	chown []bool
	// cpuset tells that the job's group has processors of its own.
	cpuset bool
	// tasks is how many files of cgroup v1 come after them, to enter groups by.
	tasks int
}

// defaultPath is where commands are looked up if the job's environment does not
// say.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultEnv is what a job has in its environment if nobody says what.
var defaultEnv = []string{"PATH=" + defaultPath, "HOME=/tmp", "LANG=C.UTF-8", "TERM=dumb"}

// environment is what a job has in its environment: its own variables over four
// defaults (a Cmd's Env over none), each key once.
func environment(j *Job) []string {
	var keys []string
	values := map[string]string{}
	list := j.Env
	if !j.wholeEnv {
		own := slices.Clone(defaultEnv)
		if j.Terminal != nil {
			own = append(own, "TERM=xterm")
		}
		if j.home != "" {
			own = append(own, "HOME="+j.home)
		}
		list = append(own, j.Env...)
	}
	for _, kv := range list {
		key, value, _ := strings.Cut(kv, "=")
		if _, there := values[key]; !there {
			keys = append(keys, key)
		}
		values[key] = value
	}
	out := make([]string, 0, len(keys))
	for _, k := range keys {
		out = append(out, k+"="+values[k])
	}
	return out
}

// candidates are the paths that execve tries for a command.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	list := defaultPath
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			list = v
		}
	}
	var out []string
	for _, dir := range strings.Split(list, ":") {
		// An empty entry means the working folder to sh; os/exec refuses it, and a
		// job's own folder is the last place to take programs from.
		if strings.HasPrefix(dir, "/") && !slices.Contains(out, dir+"/"+name) {
			out = append(out, dir+"/"+name)
		}
	}
	return out
}

// rlimits are the job's limits: its own over the defaults.
func rlimits(j *Job, h *host) []security.Rlimit {
	list := slices.Clone(defaultRlimits)
	if h.countsProcesses && !h.pidsByGroup {
		list = append(list, security.Rlimit{Name: "nproc", Soft: defaultPids, Hard: defaultPids})
	}
	for i := range list {
		if hard, ok := h.hard[list[i].Name]; ok {
			list[i].Soft, list[i].Hard = min(list[i].Soft, hard), min(list[i].Hard, hard)
		}
	}
	if d := j.CPUTimeLimit; d != nil {
		// The backstop, should nobody look: whole seconds, of each process alone.
		n := uint64(*d/time.Second) + 2
		list = append(list, security.Rlimit{Name: "cpu", Soft: n, Hard: n})
	}
	for _, r := range j.Rlimits {
		list = slices.DeleteFunc(list, func(d security.Rlimit) bool { return d.Name == r.Name })
		list = append(list, r)
	}
	return list
}

// defaultRlimits bound what one job can take of the kernel's memory and of the
// processors, and what a single file of it can hold; WithRlimit lists them.
var defaultRlimits = []security.Rlimit{
	{Name: "core", Soft: 1, Hard: 1}, // 0 would still start a handler, core(5)
	{Name: "nofile", Soft: 1024, Hard: 65536},
	{Name: "fsize", Soft: 64 << 30, Hard: 64 << 30},
	{Name: "memlock", Soft: 8 << 20, Hard: 8 << 20},
	{Name: "msgqueue", Soft: 819200, Hard: 819200},
	{Name: "sigpending", Soft: 4096, Hard: 4096},
	{Name: "nice"}, // no higher priority, of whatever kind
	{Name: "rtprio"},
}

// defaultPids is how many processes a container has at most by default.
const defaultPids = 1024

// compileJob makes the exec plan of a job. It is pure.
func compileJob(s *Spec, j *Job, h *host, io stdio, builder newBuilder) *plan.Plan {
	regs := &plan.Registers{}
	b := builder(plan.Exec, h.arch, regs)
	files := make([]plan.Reg, io.count)
	given, names := files, []string{"stdin", "stdout", "stderr", "file"}
	if io.terminal {
		given, names = files[2:], []string{"master", "file"}
	}
	for i := range given {
		given[i] = regs.New(names[min(i, len(names)-1)])
	}
	// First, so that nothing of this is charged to anybody else.
	for range io.tasks {
		b.WriteSelf(regs.New("tasks"))
	}
	for i, chown := range io.chown {
		if chown {
			b.Fchown(given[i], j.uid(), j.gid())
		}
	}
	if io.terminal {
		// By its master, which nobody in the container can replace, and not before: the
		// output ends with the last that has the slave open, so nobody else may.
		slave := b.OpenSlave(files[2])
		const same = ^uint32(0) // init's group, that no job is in: others do not write to it
		b.Fchown(slave, j.uid(), same)
		files[0], files[1], files[2] = slave, slave, slave
	}
	// Three and less cannot collide with where they go: init's own are 3 and 4.
	if io.count > 3 {
		for i := range files {
			files[i] = b.DupAbove(files[i], max(io.count, 16), "file")
		}
	}
	for i, f := range files {
		b.Dup3(f, i, 0)
	}
	b.CloseRange(uint32(io.count), ^uint32(0))
	b.Setsid()
	if io.terminal {
		b.ControlTerminal(0)
	}
	b.ResetScheduler()
	if io.cpuset {
		// Up to Linux 6.3 who is cloned into a group has its parent's processors, not the
		// group's, until they are set: all that are asked for is all of the group's.
		b.AllProcessors()
	}
	const eperm, enosys, eopnotsupp, edquot = 1, 38, 95, 122
	b.JoinSessionKeyring()
	b.Tolerate(enosys, eopnotsupp, edquot, eperm) // a kernel without keys, or an outer container that refuses them: then there is nothing to share
	umask := uint32(0o022)
	if j.Umask != nil {
		umask = *j.Umask
	}
	b.Umask(umask)
	security.SetRlimits(b, rlimits(j, h))
	if s.isNew(namespace.Cgroup) {
		b.Unshare(cloneNewCgroup)
	}
	keep, err := security.CapabilityBits(j.Capabilities)
	if err != nil {
		panic("inlay: bug: " + err.Error()) // Validate has looked
	}
	security.DropBounding(b, keep)
	if h.setgroups {
		b.Setgroups(j.Groups)
	}
	gains := j.NoNewPrivileges != nil && !*j.NoNewPrivileges
	if gains {
		// Without no_new_privs the kernel asks for CAP_SYS_ADMIN.
		s.restrict(b, j, h, keep)
	}
	b.Prctl(prSetKeepCaps, "PR_SET_KEEPCAPS", 1)
	// Where fs.suid_dumpable is set, a change of ids opens the memory, and until
	// execve it is init's.
	b.Setresgid(j.gid())
	b.Hint("", "the group must be mapped: see WithUser and WithIDMaps")
	b.Prctl(prSetDumpable, "PR_SET_DUMPABLE", 0)
	b.Setresuid(j.uid())
	b.Hint("", "the user must be mapped: see WithUser and WithIDMaps")
	b.Prctl(prSetDumpable, "PR_SET_DUMPABLE", 0)
	b.Prctl(prSetKeepCaps, "PR_SET_KEEPCAPS", 0)
	ambient := keep
	if j.Ambient != nil {
		ambient, _ = security.CapabilityBits(*j.Ambient) // Validate has looked
	}
	bits, _ := security.SecurebitsMask(j.Securebits) // the same
	security.SetCapabilities(b, keep, ambient, bits)
	if !s.isNew(namespace.PID) {
		// Should the control group that ends it be out of reach: at least the job itself.
		b.Prctl(prSetPdeathsig, "PR_SET_PDEATHSIG", sigkill)
	}
	dir := j.Dir
	if dir == "" {
		dir = "/"
	}
	b.Chdir(dir)
	b.Hint(dir, "the working folder must be there, and the job's user must be allowed into it")
	// Not by a descriptor that somebody left open: CVE-2024-21626.
	b.Inside(dir)
	b.UnblockSignals()
	if !gains {
		b.Prctl(prSetNoNewPrivs, "PR_SET_NO_NEW_PRIVS", 1, 0, 0, 0)
		// Last, but for execve: nothing of ours has to be in the profile.
		s.restrict(b, j, h, keep)
	}
	env := environment(j)
	argv, envp := b.Strings(j.Command), b.Strings(env)
	paths := candidates(j.program(), env)
	for _, path := range paths {
		b.Execve(path, argv, envp, len(j.Command), len(env))
		const enoent, eacces, enotdir = 2, 13, 20
		b.Tolerate(enoent, eacces, enotdir)
	}
	return b.Plan()
}

// restrict emits what takes calls and files from the job.
func (s *Spec) restrict(b *plan.Builder, j *Job, h *host, keep uint64) {
	if l := s.landlock(j); l != nil {
		l.Restrict(b, h.arch, h.landlock)
	}
	if j.uid() == h.initUID || keep != 0 {
		// With init's id, or the means to get it (CAP_SETUID) or not to need it
		// (CAP_SYS_RESOURCE), the job could set init's limits.
		security.ForbidForeignPrlimit(b, h.arch)
	}
	if h.seccomp {
		profile, program, err := s.filter(j, h.arch)
		if err != nil {
			panic("inlay: bug: " + err.Error()) // checkSeccomp has looked
		}
		if len(program) > 0 {
			b.Seccomp(program, profile.Flags(), profile.String())
			const monotonic = 1
			if s.Trace && !profile.Allows(string(h.arch), "clock_gettime", monotonic) {
				b.Untimed() // the job would be killed for it
			}
		}
	}
}
