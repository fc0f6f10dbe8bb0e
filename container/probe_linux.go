package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/netdriver"
	"github.com/inlay-dev/inlay/internal/rawproc"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/security"
)

// Probe finds out whether a container with these options (without any: the
// default one) starts on this host, and if not, why, and what to do about it. In
// the end it starts one without its command and closes it. It changes nothing
// else, leaves nothing behind but the program's launcher, which serves the
// containers that follow, and is for concurrent use.
//
// What the host or the options lack stands in the [Report]; an error means that
// nothing could be found out: the context has ended.
func Probe(ctx context.Context, opts ...Option) (*Report, error) {
	s := Spec{}
	for _, o := range present(opts) {
		o.applyContainer(&s)
	}
	d, err := thisHost(&s)
	if err != nil {
		return nil, err
	}
	r := &Report{Findings: d.findings()}
	dir := s.StateDir
	if dir == "" {
		dir = launcher.DefaultStateDir()
	}
	if n := probeNetwork(ctx); n != nil {
		r.Findings = append(r.Findings, *n)
	}
	options := probeOptions(s.clone())
	r.Findings = append(r.Findings, probeStateDir(dir, uint32(os.Geteuid())), options)
	launch := Finding{Name: "launch", Detail: "not tried: the options are refused"}
	if options.OK {
		launch = probeLaunch(ctx, s.clone())
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r.conclude(launch)
	return r, nil
}

// conclude adds the last finding. A container that did start is right, and what
// was read from files is not: a profile may have been installed meanwhile.
func (r *Report) conclude(launch Finding) {
	failed := ""
	for i := range r.Findings {
		f := &r.Findings[i]
		if !f.failed() {
			continue
		}
		if launch.OK {
			f.Note, f.Remedy = true, ""
			f.Detail += "; a container starts all the same"
		} else if failed == "" {
			failed = f.Name
		}
	}
	if !launch.OK && failed != "" && (launch.Remedy == "" || strings.Contains(launch.Remedy, "container.Probe")) {
		launch.Remedy = fmt.Sprintf("see %q above", failed)
	}
	r.Findings = append(r.Findings, launch)
}

// description is what findings are made from. A test makes up another host.
type description struct {
	root       string // before /proc, /sys and /etc; empty: this host's
	arch       string // "linux/amd64"
	supported  bool   // there is code for it
	uid        uint32
	user       string // its name; empty: it has none
	binary     string // path of this program
	privileged bool   // has CAP_SYS_ADMIN, and the ids that containers get
	ownIDs     bool   // root of a user namespace with ids enough
	newUser    bool   // the container is to have a user namespace of its own
	needsUsers bool   // its job is to be another than user 0
	mode       cgroup.Mode
	// groups are the folders below which this process can make groups, controllers
	// what they limit; groupsErr is why there are none.
	groups, controllers, without []string
	groupsErr                    error

	// landlock is the version of Landlock's ABI, landlockErr why there is none.
	landlock    int
	landlockErr error
	timeErr     error // why there are no time namespaces

	trials []trial // of system calls
	// tryUser tells whether the kernel makes a user namespace for this process.
	tryUser func() error
	// lookPath finds a program, and tells whether it runs with more rights than
	// its caller.
	lookPath func(name string) (path string, elevated bool, err error)
}

// trial is a system call and the kernel's answer to the smallest use of it.
type trial struct {
	name string
	err  error // nil: it is there
}

func thisHost(s *Spec) (*description, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("inlay: the path of this program: %w", err)
	}
	privileged := !launcher.NeedsUser()
	d := &description{
		arch: runtime.GOOS + "/" + runtime.GOARCH, supported: rawproc.Supported,
		uid: uint32(os.Geteuid()), binary: binary, privileged: privileged,
		newUser:    s.isNew(namespace.User),
		needsUsers: s.UIDMaps == nil && (s.Job.uid() != 0 || s.Job.gid() != 0 || len(s.Job.Groups) > 0),
		mode:       cgroup.Detect(), trials: tryCalls(privileged),
		tryUser:  func() error { return tryClone3(unix.CLONE_NEWUSER) },
		lookPath: lookElevated,
	}
	d.landlock, d.landlockErr = security.LandlockABI()
	d.timeErr = timeNamespaces()
	d.lookGroups()
	_, _, err = launcher.OwnIDs()
	d.ownIDs = err == nil
	if u, err := osuser.LookupId(strconv.FormatUint(uint64(d.uid), 10)); err == nil {
		d.user = u.Username
	}
	return d, nil
}

// findings are those that can be read from a description.
func (d *description) findings() []Finding {
	return []Finding{
		d.architecture(), d.kernel(), d.userNamespaces(), d.proc(), d.idRange(), d.newuidmap(), d.cgroups(), d.landlocks(), d.clocks(),
	}
}

// read returns the only line of a small file, or "" where it cannot be read: it
// is not there on most hosts.
func (d *description) read(name string) string {
	b, err := os.ReadFile(d.root + name)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\n\x00")
}

func (d *description) architecture() Finding {
	f := Finding{Name: "architecture", OK: d.supported, Detail: d.arch}
	if !d.supported {
		f.Detail += " is not in this version"
		f.Remedy = "run on linux/amd64 or linux/arm64"
	}
	return f
}

func (d *description) kernel() Finding {
	f := Finding{Name: "kernel"}
	release := d.read("/proc/sys/kernel/osrelease")
	var names, missing []string
	for _, t := range d.trials {
		if t.err != nil && t.name == mountSetattr {
			f.Note = true
			continue
		}
		names = append(names, t.name)
		if t.err != nil {
			missing = append(missing, fmt.Sprintf("%s (%v)", t.name, t.err))
			f.err = errors.Join(f.err, t.err)
		}
	}
	if f.OK = len(missing) == 0; f.OK {
		f.Detail = fmt.Sprintf("Linux %s with %s", release, strings.Join(names, ", "))
		if f.Note {
			f.Detail += "; without " + mountSetattr + ": mounts are changed one by one, and none shows other owners"
			f.Remedy = "Linux 5.12 and later have it, unless a seccomp filter hides it"
		}
		return f
	}
	f.Note = false
	f.Detail = fmt.Sprintf("Linux %s without %s", release, strings.Join(missing, ", "))
	f.Remedy = "this version needs Linux 5.10 or later"
	if atLeast(release, 5, 10) {
		f.Remedy = "Linux 5.10 and later have them: a seccomp filter hides them from this process, of an outer container or of a service\n" +
			"allow them there; Docker's and Podman's own filters do so in their current versions"
	}
	return f
}

// atLeast compares a kernel's release, for messages alone.
func atLeast(release string, major, minor int) bool {
	var a, b int
	if n, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil || n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// The sysctls that keep processes from making user namespaces.
const (
	sysctlMax      = "user.max_user_namespaces"
	sysctlDebian   = "kernel.unprivileged_userns_clone"
	sysctlAppArmor = "kernel.apparmor_restrict_unprivileged_userns"
)

func (d *description) sysctl(name string) string {
	return d.read("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
}

func setSysctl(name, value string) string {
	return fmt.Sprintf("sudo sysctl %[1]s=%[2]s\nand to keep it: echo %[1]s=%[2]s | sudo tee /etc/sysctl.d/60-inlay.conf", name, value)
}

// userNamespaces tells apart: none is made, or it is made and has no power.
func (d *description) userNamespaces() Finding {
	f := Finding{Name: "user namespaces"}
	if d.privileged && !d.newUser {
		f.OK, f.Detail = true, "not needed: this process has CAP_SYS_ADMIN, and the container has the host's"
		return f
	}
	switch {
	case d.sysctl(sysctlMax) == "0": // root's as well
		f.Detail = "refused: the sysctl " + sysctlMax + " is 0"
		f.Remedy = setSysctl(sysctlMax, "15000")
		return f
	case !d.privileged && d.sysctl(sysctlDebian) == "0":
		f.Detail = "refused to unprivileged users: Debian's sysctl " + sysctlDebian + " is 0"
		f.Remedy = setSysctl(sysctlDebian, "1")
		return f
	case !d.privileged && d.restrictedByAppArmor():
		f.Detail = "made but powerless: the sysctl " + sysctlAppArmor + " is 1, and no AppArmor profile lets this program have them"
		f.Remedy = appArmorRemedy(d.binary)
		return f
	}
	if err := d.tryUser(); err != nil {
		f.err = err
		f.Detail = fmt.Sprintf("refused: clone3 with CLONE_NEWUSER: %v", err)
		f.Remedy = userRemedy(err)
		return f
	}
	f.OK, f.Detail = true, "the kernel makes them for this process"
	return f
}

func userRemedy(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "the limit is reached: raise it here, and on the host of an outer container\n" + setSysctl(sysctlMax, "15000")
	case errors.Is(err, unix.EUSERS):
		return "user namespaces nest 32 deep, and this process is at the end: start it further out"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "a seccomp filter or security module of an outer container, or a chroot, forbids them\n" +
			"docker: --security-opt seccomp=FILE, with Docker's own profile and clone, clone3, unshare, setns, mount and pivot_root allowed in FILE"
	case errors.Is(err, unix.EAGAIN):
		return "the limit of processes is reached: RLIMIT_NPROC, or pids.max of an outer container"
	case errors.Is(err, unix.ENOSYS):
		return "clone3 is not there: see \"kernel\" above"
	}
	return ""
}

// restrictedByAppArmor tells whether this program's user namespaces would have no
// capabilities. That meets programs without a profile: one with flags=(unconfined)
// shows its own name there.
func (d *description) restrictedByAppArmor() bool {
	if d.sysctl(sysctlAppArmor) != "1" || d.read("/sys/module/apparmor/parameters/enabled") == "N" {
		return false
	}
	label := d.read("/proc/self/attr/apparmor/current")
	if label == "" {
		label = d.read("/proc/self/attr/current")
	}
	return label == "" || label == "unconfined"
}

// appArmorRemedy is the profile that AppArmor wants, for this binary alone, as
// Ubuntu's own /etc/apparmor.d/chrome and others: apparmor.d(5).
func appArmorRemedy(binary string) string {
	name := "inlay-" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r) {
			return r
		}
		return '_'
	}, filepath.Base(binary))
	file := "/etc/apparmor.d/" + name
	return fmt.Sprintf(`sudo tee %[1]s <<-'EOF'
abi <abi/4.0>,
include <tunables/global>
profile %[2]s %[3]s flags=(unconfined) {
  userns,
}
EOF
sudo apparmor_parser -r %[1]s`, file, name, appArmorPath(binary))
}

// appArmorPath writes a path that stands for itself in a profile: no globs, no
// variables, no end of the quotes.
func appArmorPath(name string) string {
	var b strings.Builder
	for i := range len(name) {
		if strings.IndexByte(`*?[]{}^\"@$`, name[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(name[i])
	}
	if text := b.String(); !strings.ContainsAny(text, " \t,#()=\"") {
		return text
	}
	return `"` + b.String() + `"`
}

// emptyInProc are folders of proc(5) that never hold anything: what is mounted
// there hides nothing (is_empty_dir_inode in the kernel's fs/namespace.c).
var emptyInProc = []string{"sys/fs/binfmt_misc", "fs/nfsd", "openprom"}

// proc does as the kernel's mnt_already_visible: a mount namespace of a user
// namespace gets a new proc only if it has one already that is whole, since a new
// one would show what was hidden.
func (d *description) proc() Finding {
	f := Finding{Name: "proc"}
	if !d.newUser && d.privileged && d.ownsHost() {
		f.OK, f.Detail = true, "not needed whole: the container has the host's user namespace"
		return f
	}
	b, err := os.ReadFile(d.root + "/proc/self/mountinfo")
	if err != nil {
		f.Detail, f.err = fmt.Sprintf("cannot tell: /proc/self/mountinfo: %v", bare(err)), err
		f.Remedy = "mount a proc on /proc"
		return f
	}
	mounts, err := mountinfo.GetMountsFromReader(bytes.NewReader(b), nil)
	if err != nil {
		f.Note, f.Detail, f.err = true, fmt.Sprintf("cannot tell: /proc/self/mountinfo: %v", err), err
		return f
	}
	var why string
	for _, m := range mounts {
		if m.FSType != "proc" || m.Root != "/" {
			continue
		}
		w := covered(m, mounts)
		if w == "" {
			f.OK, f.Detail = true, "nothing covers "+m.Mountpoint
			return f
		}
		if why == "" {
			why = w
		}
	}
	if why == "" {
		why = "no whole proc is mounted"
	}
	f.Detail = why + ": the kernel refuses a new proc in a user namespace"
	f.Remedy = "for the outer container: docker run --security-opt systempaths=unconfined\n" +
		"or: podman run --security-opt unmask=ALL\n" +
		"or, in Kubernetes: procMount: Unmasked"
	return f
}

// covered says what hides parts of a proc mount; "" if nothing does.
func covered(proc *mountinfo.Info, mounts []*mountinfo.Info) string {
	if slices.Contains(strings.Split(proc.Options, ","), "ro") {
		return proc.Mountpoint + " is read-only"
	}
	var over []string
	for _, m := range mounts {
		if m.Parent != proc.ID || m.ID == proc.ID {
			continue
		}
		inside := strings.TrimPrefix(strings.TrimPrefix(m.Mountpoint, proc.Mountpoint), "/")
		if !slices.Contains(emptyInProc, inside) && !slices.Contains(over, m.Mountpoint) {
			over = append(over, m.Mountpoint)
		}
	}
	if len(over) == 0 {
		return ""
	}
	shown := strings.Join(over, ", ")
	if len(over) > 4 {
		shown = fmt.Sprintf("%s and %d more", strings.Join(over[:3], ", "), len(over)-3)
	}
	return "something is mounted over " + shown
}

// ownsHost tells that this process is in the host's first user namespace: all
// ids are its own, user_namespaces(7).
func (d *description) ownsHost() bool {
	return slices.Equal(strings.Fields(d.read("/proc/self/uid_map")), []string{"0", "0", "4294967295"})
}

// name is the user's, for messages and commands.
func (d *description) name() string {
	if d.user != "" {
		return d.user
	}
	return strconv.FormatUint(uint64(d.uid), 10)
}

func (d *description) idRange() Finding {
	f := Finding{Name: "id range"}
	switch {
	case d.privileged && !d.newUser:
		f.OK, f.Detail = true, "not needed: the container has the host's ids"
		return f
	case d.privileged:
		return d.ownRange(f)
	}
	if d.ownIDs {
		f.OK, f.Detail = true, fmt.Sprintf("the ids below %d of this process's own user namespace", launcher.RangeSize)
		return f
	}
	var lacking []string
	first := int64(100000)
	for _, file := range []string{launcher.SubUIDPath, launcher.SubGIDPath} {
		sum, end, err := d.subordinate(file)
		if err != nil {
			lacking = append(lacking, fmt.Sprintf("%s cannot be read (%v)", file, bare(err)))
		} else if sum < launcher.RangeSize-1 {
			lacking = append(lacking, fmt.Sprintf("%s gives %d ids to %s", file, sum, d.name()))
		}
		first = max(first, end)
	}
	if f.OK = len(lacking) == 0; f.OK {
		f.Detail = fmt.Sprintf("%s has a range in %s and in %s", d.name(), launcher.SubUIDPath, launcher.SubGIDPath)
		return f
	}
	f.Note = !d.needsUsers
	f.Detail = strings.Join(lacking, ", ") + ": only user 0 is inside a container"
	ids := fmt.Sprintf("%d-%d", first, first+launcher.RangeSize-1)
	f.Remedy = fmt.Sprintf("sudo usermod --add-subuids %s --add-subgids %s %s", ids, ids, d.name())
	return f
}

// ownRange looks whether the ids that containers of a privileged program get are
// in its own user namespace.
func (d *description) ownRange(f Finding) Finding {
	const last = launcher.FirstID + launcher.RangeSize - 1
	f.OK, f.Detail = true, fmt.Sprintf("each container has %d ids of its own, from %d on", launcher.RangeSize, launcher.FirstID)
	for _, file := range []string{"uid_map", "gid_map"} {
		maps, err := user.ParseIDMapFile(d.root + "/proc/self/" + file)
		if err != nil {
			f.OK, f.Note, f.err = false, true, err
			f.Detail = fmt.Sprintf("cannot tell: /proc/self/%s: %v", file, bare(err))
			return f
		}
		if !slices.ContainsFunc(maps, func(m user.IDMap) bool { return m.ID <= launcher.FirstID && m.ID+m.Count > last }) {
			f.OK = false
			f.Detail = fmt.Sprintf("this process is in a user namespace without the ids %d to %d, which containers of a process with CAP_SYS_ADMIN get", launcher.FirstID, last)
			f.Remedy = "run this program there as a user without capabilities, or the outer container without a user namespace"
			return f
		}
	}
	return f
}

// subordinate adds up what a file of subordinate ids gives to the user, and
// returns the end of all that it gives to anybody.
func (d *description) subordinate(file string) (sum, end int64, err error) {
	all, err := user.ParseSubIDFile(d.root + file)
	if err != nil {
		return 0, 0, err
	}
	for _, s := range all {
		if s.Count <= 0 || s.SubID <= 0 {
			continue
		}
		end = max(end, s.SubID+s.Count)
		if s.Name == strconv.FormatUint(uint64(d.uid), 10) || d.user != "" && s.Name == d.user {
			sum += s.Count
		}
	}
	return sum, end, nil
}

func (d *description) newuidmap() Finding {
	f := Finding{Name: "newuidmap"}
	if d.privileged {
		f.OK, f.Detail = true, "not needed: this process has CAP_SYS_ADMIN"
		return f
	}
	if d.ownIDs {
		f.OK, f.Detail = true, "not needed: this process may map the ids of its own user namespace"
		return f
	}
	const without = ": only user 0 is inside a container"
	var paths []string
	for _, tool := range []struct{ name, capability string }{{"newuidmap", "cap_setuid"}, {"newgidmap", "cap_setgid"}} {
		at, elevated, err := d.lookPath(tool.name)
		if err != nil {
			f.Note, f.err = !d.needsUsers, err
			f.Detail = tool.name + " is not installed" + without
			f.Remedy = "install the package uidmap (Debian, Ubuntu), shadow-utils (Fedora, RHEL), shadow (Arch, openSUSE) or shadow-uidmap (Alpine)"
			return f
		}
		if !elevated {
			f.Note = !d.needsUsers
			f.Detail = at + " is neither setuid root nor has it file capabilities that count" + without
			f.Remedy = fmt.Sprintf("sudo setcap %s=ep %s\nor: sudo chmod u+s %[2]s", tool.capability, at)
			return f
		}
		paths = append(paths, at)
	}
	// execve(2): a process with no_new_privs gets neither.
	if slices.Contains(strings.Split(d.read("/proc/self/status"), "\n"), "NoNewPrivs:\t1") {
		f.Note = !d.needsUsers
		f.Detail = "this process has no_new_privs, with which newuidmap has no rights" + without
		f.Remedy = "docker: leave --security-opt no-new-privileges out\nKubernetes: allowPrivilegeEscalation: true\nsystemd: NoNewPrivileges=no"
		return f
	}
	f.OK, f.Detail = true, strings.Join(paths, ", ")
	return f
}

// cgroups is a note: without them containers start, and keep no limits.
func (d *description) cgroups() Finding {
	f := Finding{Name: "cgroups", Note: true, Detail: string(d.mode)}
	switch {
	case d.mode == cgroup.Unavailable:
		f.Detail = "no hierarchy is mounted on /sys/fs/cgroup"
		f.Remedy = noGroups
	case d.groupsErr != nil:
		f.err = d.groupsErr
		f.Detail += ": " + d.groupsErr.Error()
		f.Remedy = noGroups
	default:
		f.OK = true
		f.Detail += ": limits of " + strings.Join(d.controllers, " ") + ", below " + strings.Join(d.groups, " ")
		if len(d.without) > 0 {
			f.Detail += "; without " + strings.Join(d.without, " ")
			f.Remedy = "to have them, with systemd: a drop-in with [Service] Delegate=cpu cpuset io memory pids for user@.service or the program's own service"
		}
	}
	return f
}

// landlocks is a note: only WithLandlock needs it.
func (d *description) landlocks() Finding {
	f := Finding{Name: "landlock", Note: true}
	if d.landlockErr != nil {
		f.Detail, f.err = d.landlockErr.Error(), d.landlockErr
		f.Remedy = "Linux 5.13 or later, built with CONFIG_SECURITY_LANDLOCK and started with landlock in lsm="
		return f
	}
	f.OK, f.Detail = true, fmt.Sprintf("version %d", d.landlock)
	everything := security.NewLandlock(security.AllowRead("/"), security.AllowBind(), security.ScopeSignals(), security.ScopeAbstractSockets())
	if missing := everything.Missing(d.landlock); len(missing) > 0 {
		f.Detail += "; without " + strings.Join(missing, ", ")
	}
	return f
}

// clocks is a note: only a container with clocks of its own needs them.
func (d *description) clocks() Finding {
	f := Finding{Name: "time namespaces", Note: true, err: d.timeErr}
	if f.err != nil {
		f.Detail, f.Remedy = f.err.Error(), "a kernel with CONFIG_TIME_NS: only WithTimeOffsets and time namespaces need it"
		return f
	}
	f.OK, f.Detail = true, "there are: WithTimeOffsets shifts a container's clocks"
	return f
}

const noGroups = "docker run --cgroupns=private --security-opt writable-cgroups=true (Docker 28 or later; not --privileged), and cgroup.Prepare in the program\n" +
	"podman run --cgroupns=private --security-opt unmask=/sys/fs/cgroup, and cgroup.Prepare in the program\n" +
	"as a user, with systemd: systemd-run --user --scope -p Delegate=yes -- PROGRAM, and cgroup.Prepare in the program"

// lookGroups finds where groups can be made, and which limits they can keep.
func (d *description) lookGroups() {
	top, err := foreseeTop(context.Background())
	if err != nil {
		d.groupsErr = err
		return
	}
	d.groups = top.Paths()
	for _, c := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		if top.Has(c) {
			d.controllers = append(d.controllers, c)
		} else {
			d.without = append(d.without, c)
		}
	}
	_ = top.Close() // descriptors of folders
}

// probeNetwork is a note: only WithNetwork needs it. nil: namespace/network is not linked.
func probeNetwork(ctx context.Context) *Finding {
	d := netdriver.Registered()
	if d == nil {
		return nil
	}
	f := &Finding{Name: "bridges", Note: true}
	f.Detail, f.err = d.Probe(ctx, launcher.NeedsUser())
	if f.OK = f.err == nil; f.OK {
		return f
	}
	f.Detail = f.err.Error()
	var e *netdriver.Error
	if errors.As(f.err, &e) {
		f.Remedy = e.Remedy
	}
	return f
}

// probeStateDir looks whether the state directory is there as it must be, or can
// be made.
func probeStateDir(dir string, uid uint32) Finding {
	f := Finding{Name: "state directory"}
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		parent := filepath.Dir(dir)
		if err = writable(parent); err == nil {
			f.OK, f.Detail = true, dir+" can be made"
			return f
		}
		f.Detail = fmt.Sprintf("%s cannot be made in %s: %v", dir, parent, err)
	case err != nil:
		f.Detail = fmt.Sprintf("%s: %v", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = unix.ENOTDIR
		f.Detail = dir + " is no folder"
	case st.Uid != uid || st.Mode&0o022 != 0:
		// Others could put their own files there.
		err = unix.EPERM
		f.Detail = fmt.Sprintf("%s belongs to uid %d with mode %#o: others could write there", dir, st.Uid, st.Mode&0o7777)
	default:
		if err = writable(dir); err == nil {
			f.OK, f.Detail = true, dir
			return f
		}
		f.Detail = fmt.Sprintf("%s is not writable: %v", dir, err)
	}
	f.err, f.Remedy = err, "make it writable for this user alone, or name another by WithStateDir"
	return f
}

// lookElevated finds a program and looks whether it is setuid root or has file
// capabilities, capabilities(7), on a mount that lets them count.
func lookElevated(name string) (string, bool, error) {
	at, err := exec.LookPath(name)
	if err != nil {
		return "", false, err
	}
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Stat(at, &st), unix.Statfs(at, &fs)); err != nil {
		return "", false, err
	}
	if fs.Flags&unix.ST_NOSUID != 0 {
		return at, false, nil
	}
	_, noCaps := unix.Getxattr(at, "security.capability", nil)
	return at, noCaps == nil || st.Uid == 0 && st.Mode&unix.S_ISUID != 0, nil
}

// probeOptions finds what New and Start would refuse.
func probeOptions(s Spec) Finding {
	f := Finding{Name: "options"}
	c, err := fromSpec(s)
	if err == nil {
		r := &running{c: c}
		err = errors.Join(r.refuseTime(&host{}), r.refuseLimits(), r.refuseBudgets())
	}
	if err != nil {
		f.err = err
		f.Detail, f.Remedy = describe(err)
		return f
	}
	f.OK, f.Detail = true, "nothing is refused"
	if dropped := c.Dropped(); len(dropped) > 0 {
		f.Note = true
		var without []string
		for _, d := range dropped {
			without = append(without, d.Option+" ("+d.Reason+")")
		}
		f.Detail = "optional, and left out: " + strings.Join(without, ", ")
	}
	return f
}

// probeLaunch starts the container without its command and closes it: the proof.
func probeLaunch(ctx context.Context, s Spec) Finding {
	f := Finding{Name: "launch"}
	// A name of its own: one that was asked for may be another container's.
	s.ID = ""
	s.Job.Command, s.Job.TimeLimit = nil, nil
	s.Job.Stdin, s.Job.Stdout, s.Job.Stderr, s.Job.ExtraFiles, s.Job.Terminal = nil, nil, nil, nil, nil
	c, err := fromSpec(s)
	if err == nil {
		err = errors.Join(c.Start(ctx), c.Close())
	}
	if err != nil {
		f.err = err
		f.Detail, f.Remedy = describe(err)
		return f
	}
	f.OK, f.Detail = true, "a container was started and closed"
	return f
}

// describe takes joined errors apart: what they say, and their remedies without
// repetition.
func describe(err error) (detail, remedy string) {
	var details, remedies []string
	for _, e := range flatten(err) {
		text, r := e.Error(), remedyOf(e)
		if r != "" {
			text = strings.TrimSuffix(text, " ("+r+")")
			if !slices.Contains(remedies, r) {
				remedies = append(remedies, r)
			}
		}
		details = append(details, strings.TrimPrefix(text, "inlay: "))
	}
	return strings.Join(details, "; "), strings.Join(remedies, "\n")
}

// flatten lists what errors.Join has joined.
func flatten(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

func remedyOf(err error) string {
	switch e := err.(type) { //nolint:errorlint // this very error's remedy
	case *OptionError:
		return e.Remedy
	case *LimitError:
		return e.Remedy
	case *StartError:
		return e.Remedy
	}
	return ""
}

// mountSetattr is the one of them that has a substitute.
const mountSetattr = "mount_setattr"

// tryCalls tries each system call of a launch that another one cannot stand for, and
// mount_setattr(2), in its smallest form: one that the kernel answers without doing
// anything.
func tryCalls(privileged bool) []trial {
	return []trial{
		{"openat2", tryOpenat2()},
		{"close_range", unix.CloseRange(1<<32-1, 1<<32-1, 0)}, // since Linux 5.9; nothing can be open there
		{"clone3", knows(tryClone3(0))},
		{"pidfd_open", tryPidfdOpen()},
		{mountSetattr, tryMountSetattr()},
		{"fsopen", tryFsopen(privileged)},
	}
}

// tryOpenat2 since Linux 5.6.
func tryOpenat2() error {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// tryPidfdOpen since Linux 5.3.
func tryPidfdOpen() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// settable tells that there is mount_setattr(2). The filter of an outer container that
// does not know the call may answer anything.
var settable = sync.OnceValue(func() bool { return tryMountSetattr() == nil })

// tryMountSetattr gives a structure of no bytes: EINVAL from a kernel that has
// mount_setattr(2), since Linux 5.12, before it looks at any rights.
func tryMountSetattr() error {
	var empty [1]byte
	_, _, errno := unix.Syscall6(unix.SYS_MOUNT_SETATTR, ^uintptr(0), uintptr(unsafe.Pointer(&empty)), 0, 0, 0, 0)
	return answered(errno, unix.EINVAL)
}

// tryFsopen gives flags that there are none of: EINVAL from a kernel that has
// fsopen(2), since Linux 5.2, but to a process without CAP_SYS_ADMIN EPERM at
// once. A seccomp filter's EPERM looks the same; the launch meets it.
func tryFsopen(privileged bool) error {
	name := [...]byte{'p', 'r', 'o', 'c', 0}
	_, _, errno := unix.Syscall(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(&name)), 1<<31, 0)
	if !privileged && errno == unix.EPERM {
		return nil
	}
	return answered(errno, unix.EINVAL)
}

// tryClone3 asks clone3(2) for a child and for its pidfd to be written where no
// program can have memory. The kernel checks the flags, makes the namespaces and
// only then meets the address: EFAULT, and all is undone before a child exists.
//
// CLONE_PIDFD is as old as clone3 itself (Linux 5.3), so no kernel overlooks the
// address; CLONE_CLEAR_SIGHAND is of 5.5, and EINVAL before. CLONE_VM saves
// copying the page tables for nothing.
func tryClone3(flags uint64) error {
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64
	}{
		flags: flags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_VM,
		pidfd: 1<<64 - 8, exitSignal: uint64(unix.SIGCHLD),
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	return answered(errno, unix.EFAULT)
}

// knows leaves out what a kernel answers that has the call and no room.
func knows(err error) error {
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM) {
		return nil
	}
	return err
}

// answered is nil for the answer of a kernel that has the call.
func answered(errno, want syscall.Errno) error {
	switch errno {
	case want:
		return nil
	case 0:
		return errors.New("an answer that no kernel gives")
	}
	return errno
}

// writable tells why this process may not write to a file.
func writable(name string) error {
	return unix.Faccessat(unix.AT_FDCWD, name, unix.W_OK, unix.AT_EACCESS)
}
