package container

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// Bounds that are the kernel's.
const (
	maxArgs       = 2 << 20     // bytes of arguments and environment together: a quarter of an 8 MiB stack
	maxString     = 128<<10 - 1 // one of them, MAX_ARG_STRLEN less its NUL
	maxID         = 1<<32 - 2   // 2³²−1 means "no change" to setresuid(2)
	maxGroups     = 65536
	maxExtraFiles = 1000
	maxSignal     = 64
	maxMounts     = 500
)

// Bounds of labels, which are in every event and record.
const (
	maxLabels     = 64
	maxLabelKey   = 128
	maxLabelValue = 4096
)

// faults collects what is wrong.
type faults []error

func (f *faults) add(option string, value any, reason string, remedy ...string) {
	*f = append(*f, &OptionError{Option: option, Value: shorten(fmt.Sprint(value)), Reason: reason, Remedy: strings.Join(remedy, " ")})
}

// Validate tells all that is wrong with the request, joined; nil if New would
// take it. It does not look at the host.
func (s *Spec) Validate() error {
	var f faults
	for _, e := range s.faults {
		f = append(f, e)
	}
	s.validateIdentity(&f)
	s.validateNamespaces(&f)
	s.validateNetwork(&f)
	s.validateRoot(&f)
	s.validateStop(&f)
	s.Job.validate(&f)
	if s.hostUser() && slices.Contains(s.Job.Capabilities, "CAP_SYS_PTRACE") {
		f.add("WithCapabilities", "CAP_SYS_PTRACE", "refused together with WithHostNamespace(user): the job could take init over", "leave one of them out")
	}
	return errors.Join(f...)
}

func (s *Spec) validateIdentity(f *faults) {
	if err := validateID(s.ID); err != nil {
		f.add("WithID", fmt.Sprintf("%q", s.ID), err.Error())
	}
	if len(s.Labels) > maxLabels {
		f.add("WithLabel", fmt.Sprintf("%d labels", len(s.Labels)), fmt.Sprintf("at most %d", maxLabels))
	}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		v := s.Labels[k]
		shown := fmt.Sprintf("%q, %q", shorten(k), shorten(v))
		switch {
		case k == "" || strings.ContainsAny(k+v, "\n\x00"):
			f.add("WithLabel", shown, "an empty key, a newline or a NUL byte")
		case !utf8.ValidString(k) || !utf8.ValidString(v):
			f.add("WithLabel", shown, "not UTF-8, which JSON and logs are")
		case len(k) > maxLabelKey || len(v) > maxLabelValue:
			f.add("WithLabel", shown, fmt.Sprintf("%d and %d bytes, at most %d and %d", len(k), len(v), maxLabelKey, maxLabelValue))
		}
	}
	if s.StateDir != "" && (!path.IsAbs(s.StateDir) || strings.ContainsRune(s.StateDir, 0)) {
		f.add("WithStateDir", fmt.Sprintf("%q", s.StateDir), "not an absolute path")
	}
	if s.CgroupParent != nil {
		if err := cgroup.ValidatePath(*s.CgroupParent); err != nil {
			f.add("WithCgroupParent", fmt.Sprintf("%q", *s.CgroupParent), err.Error())
		}
	}
}

func validateID(id string) error {
	if len(id) > 64 {
		return fmt.Errorf("%d bytes, at most 64", len(id))
	}
	for i := range len(id) {
		c := id[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '-' && c != '_' && c != '.') {
			return fmt.Errorf("character %q: letters, digits, '-', '_' and '.', the first a letter or digit", c)
		}
	}
	return nil
}

func (s *Spec) validateNamespaces(f *faults) {
	for _, k := range s.Namespaces {
		switch {
		case !k.Valid():
			f.add("WithNamespaces", fmt.Sprintf("%q", k), "no such kind", fmt.Sprint(namespace.All()))
		case slices.Contains(s.HostNamespaces, k):
			f.add("WithHostNamespace", k, "WithNamespaces names the same kind as new", "leave one of them out")
		}
	}
	for _, k := range s.HostNamespaces {
		switch {
		case !k.Valid():
			f.add("WithHostNamespace", fmt.Sprintf("%q", k), "no such kind", fmt.Sprint(namespace.All()))
		case k == namespace.Mount:
			f.add("WithHostNamespace", k, "a container without a mount namespace has no root of its own")
		}
	}
	for i := range s.Join {
		s.validateJoin(f, i)
	}
	if o := s.TimeOffsets; o != nil {
		shown := fmt.Sprintf("%v, %v", o.Monotonic, o.Boottime)
		if err := o.Validate(); err != nil {
			f.add("WithTimeOffsets", shown, err.Error())
		}
		if j := s.joins(namespace.Time); j != nil {
			f.add("WithTimeOffsets", shown, j.option()+" joins a time namespace, whose clocks are set", "leave one of them out")
		}
		if slices.Contains(s.HostNamespaces, namespace.Time) {
			f.add("WithTimeOffsets", shown, "WithHostNamespace(time) leaves the host's clocks", "leave one of them out")
		}
	}
	for name, value := range s.Sysctls {
		shown := fmt.Sprintf("%q, %q", name, value)
		kind, err := namespace.SysctlKind(name)
		switch {
		case err != nil:
			f.add("WithSysctl", shown, err.Error())
		case strings.ContainsAny(value, "\x00\n"):
			f.add("WithSysctl", shown, "a value of more than one line")
		case !s.isNew(kind):
			f.add("WithSysctl", shown, fmt.Sprintf("it is the %s namespace's, which the container does not have new (%s)", kind, s.notNew(kind)))
		}
	}
	s.validateIDs(f)
	for _, n := range []struct {
		option string
		name   *string
	}{{"WithHostname", s.Hostname}, {"WithDomainname", s.Domainname}} {
		switch {
		case n.name == nil:
		case !s.isNew(namespace.UTS):
			f.add(n.option, fmt.Sprintf("%q", shorten(*n.name)), fmt.Sprintf("the UTS namespace is not new (%s)", s.notNew(namespace.UTS)), "leave one of them out")
		default:
			if err := namespace.ValidateHostname(*n.name); err != nil {
				f.add(n.option, fmt.Sprintf("%q", shorten(*n.name)), err.Error())
			}
		}
	}
}

// maxPath is the kernel's PATH_MAX.
const maxPath = 4096

func (s *Spec) validateJoin(f *faults, i int) {
	j := &s.Join[i]
	add := func(reason string, remedy ...string) { f.add(j.option(), shorten(j.String()), reason, remedy...) }
	switch err := namespace.Joinable(j.Kind); {
	case err != nil:
		add(err.Error())
	case j.Path != "" && !path.IsAbs(j.Path):
		add("not an absolute path")
	case strings.ContainsRune(j.Path, 0) || len(j.Path) >= maxPath:
		add("holds a NUL byte, or is longer than the kernel takes")
	case j.Path == "" && j.Container != "" && j.of == nil:
		add("that container is not known here: JSON keeps its ID alone", "give the option again")
	case j.Path == "" && j.Container == "" && j.File == nil:
		add("no file, and no path")
	case slices.Contains(s.HostNamespaces, j.Kind):
		add("WithHostNamespace names the same kind", "leave one of them out")
	case slices.Contains(s.Namespaces, j.Kind):
		add("WithNamespaces names the same kind as new", "leave one of them out")
	case slices.ContainsFunc(s.Join[:i], func(o Join) bool { return o.Kind == j.Kind }):
		add("the " + string(j.Kind) + " namespace is joined twice")
	}
}

// notNew names what keeps a namespace from being new.
func (s *Spec) notNew(k namespace.Kind) string {
	if j := s.joins(k); j != nil {
		return fmt.Sprintf("%s(%s)", j.option(), shorten(j.String()))
	}
	if slices.Contains(s.HostNamespaces, k) {
		return fmt.Sprintf("WithHostNamespace(%s)", k)
	}
	return "WithNamespaces"
}

func (s *Spec) validateIDs(f *faults) {
	if s.UIDMaps == nil && s.GIDMaps == nil {
		return
	}
	shown := fmt.Sprintf("%v, %v", s.UIDMaps, s.GIDMaps)
	if !s.isNew(namespace.User) {
		f.add("WithIDMaps", shown, s.notNew(namespace.User)+" leaves no user namespace to map", "leave one of them out")
	}
	for _, m := range []struct {
		what string
		maps []namespace.IDMap
		id   uint32
	}{{"users", s.UIDMaps, s.Job.uid()}, {"groups", s.GIDMaps, s.Job.gid()}} {
		if err := namespace.ValidateIDMaps(m.maps); err != nil {
			f.add("WithIDMaps", shown, m.what+": "+err.Error())
			continue
		}
		if _, ok := namespace.ToHost(m.maps, m.id); !ok && s.Job.User == "" {
			f.add("WithIDMaps", shown, fmt.Sprintf("%s: the job's id %d is not mapped", m.what, m.id), "map it, or choose another by WithUser")
		}
	}
}

func (s *Spec) validateRoot(f *faults) {
	if s.Root != nil {
		if err := s.Root.Validate(); err != nil {
			f.add("WithRoot", fmt.Sprintf("%q", s.Root.Path), err.Error())
		}
	}
	if len(s.Mounts) > maxMounts {
		f.add("WithMounts", fmt.Sprintf("%d mounts", len(s.Mounts)), fmt.Sprintf("at most %d", maxMounts))
	}
	targets := map[string]bool{}
	for _, m := range s.Mounts {
		shown := fmt.Sprintf("%s %q on %q", m.Type, shorten(m.Source), shorten(m.Target))
		if err := m.Validate(); err != nil {
			f.add("WithMounts", shown, err.Error())
			continue
		}
		if m.Type == "workspace" && s.Job.named() {
			f.add("WithMounts", shown, "a workspace of a user by name: its owner is mapped before the names are read", "give WithUser numbers")
		}
		if m.Budget() && s.hostUser() {
			f.add("WithMounts", shown, "a size or inodes together with WithHostNamespace(user): a job could give its files to another project")
		}
		if m.Type == "sysfs" && !s.isNew(namespace.Network) {
			f.add("WithMounts", shown, "together with WithHostNamespace(network) or a network namespace that is joined: sysfs is given to who has one of its own", "leave one of them out")
		}
		if at := path.Clean(m.Target); targets[at] {
			f.add("WithMounts", shown, "something else is mounted there already")
		} else {
			targets[at] = true
		}
	}
	if n := len(s.stagedMounts()); n > rootfs.MaxStaged {
		f.add("WithMounts", fmt.Sprintf("%d staged workspaces", n), fmt.Sprintf("at most %d", rootfs.MaxStaged))
	}
	for _, d := range s.Devices {
		shown := fmt.Sprintf("%q, %q, %q", shorten(d.Source), shorten(d.Target), shorten(d.Access))
		if err := d.Validate(); err != nil {
			f.add("WithDevice", shown, err.Error())
			continue
		}
		if at := path.Clean(d.Inside()); targets[at] {
			f.add("WithDevice", shown, "something else is mounted there already")
		} else {
			targets[at] = true
		}
	}
	if len(s.Devices) > maxMounts {
		f.add("WithDevice", fmt.Sprintf("%d devices", len(s.Devices)), fmt.Sprintf("at most %d", maxMounts))
	}
	files := map[string]bool{}
	var total int64
	for _, file := range s.Files {
		if err := file.Validate(); err != nil {
			f.add("WithFile", fmt.Sprintf("%q", shorten(file.Path)), err.Error())
			continue
		}
		if at := path.Clean(file.Path); files[at] {
			f.add("WithFile", fmt.Sprintf("%q", shorten(file.Path)), "written twice")
		} else {
			files[at] = true
		}
		total += int64(len(file.Data))
	}
	for _, l := range s.Symlinks {
		shown := fmt.Sprintf("%q, %q", shorten(l.Target), shorten(l.Path))
		if err := l.Validate(); err != nil {
			f.add("WithSymlink", shown, err.Error())
			continue
		}
		if at := path.Clean(l.Path); files[at] {
			f.add("WithSymlink", shown, "written twice")
		} else {
			files[at] = true
		}
	}
	if total > 3*rootfs.MaxFile {
		f.add("WithFile", fmt.Sprintf("%d files", len(s.Files)), fmt.Sprintf("%d bytes together, at most %d", total, 3*rootfs.MaxFile), "mount them: rootfs.Bind")
	}
}

func (s *Spec) validateStop(f *faults) {
	if s.StopSignal != nil && (*s.StopSignal < 1 || *s.StopSignal > maxSignal) {
		f.add("WithStopSignal", *s.StopSignal, "not a syscall.Signal from 1 to 64")
	}
	if s.StopGrace != nil && *s.StopGrace < 0 {
		f.add("WithStopGrace", *s.StopGrace, "below zero")
	}
	if len(s.Job.Command) == 0 && s.Job.Terminal != nil {
		f.add("WithTerminal", fmt.Sprintf("%d, %d", s.Job.Terminal.Rows, s.Job.Terminal.Cols), "a terminal belongs to a job, and there is no command", "add WithCommand, or give it to Exec")
	}
	if len(s.Job.Command) == 0 && (s.Job.Stdin != nil || s.Job.Stdout != nil || s.Job.Stderr != nil || len(s.Job.ExtraFiles) > 0) {
		f.add("WithStdin", "", "input, output and files belong to a job, and there is no command", "add WithCommand, or give them to Exec")
	}
}

// validate tells what is wrong with one job.
func (j *Job) validate(f *faults) {
	for _, e := range j.faults {
		*f = append(*f, e)
	}
	j.validateStrings(f)
	j.validateSeccomp(f)
	if j.Dir != "" {
		if err := rootfs.ValidateInside(j.Dir); err != nil {
			f.add("WithDir", fmt.Sprintf("%q", shorten(j.Dir)), err.Error())
		}
	}
	j.validateUser(f)
	if j.Umask != nil && *j.Umask > 0o777 {
		f.add("WithUmask", fmt.Sprintf("%#o", *j.Umask), "above 0777")
	}
	for _, r := range j.Rlimits {
		if err := r.Validate(); err != nil {
			f.add("WithRlimit", fmt.Sprintf("%q, %d, %d", r.Name, r.Soft, r.Hard), err.Error())
		}
	}
	j.validatePrivileges(f)
	j.validateTerminal(f)
	j.validateLandlock(f)
	if len(j.ExtraFiles) > maxExtraFiles {
		f.add("WithExtraFiles", fmt.Sprintf("%d files", len(j.ExtraFiles)), fmt.Sprintf("at most %d", maxExtraFiles))
	}
	if slices.Contains(j.ExtraFiles, nil) {
		f.add("WithExtraFiles", "nil", "no file")
	}
	for name, d := range map[string]*time.Duration{"WithTimeLimit": j.TimeLimit, "WithCPUTimeLimit": j.CPUTimeLimit, "WithIdleLimit": j.IdleLimit} {
		if d != nil && *d <= 0 {
			f.add(name, *d, "not above zero")
		}
	}
	if j.OutputLimit != nil && *j.OutputLimit < 0 {
		f.add("WithOutputLimit", *j.OutputLimit, "below zero")
	}
	j.Limits.Validate(func(field string, value any, err error) {
		f.add(limitOption[field], value, err.Error())
	})
	sortFaults(*f)
}

// limitOption is the option that sets a field of cgroup.Limits.
var limitOption = map[string]string{
	"Memory": "WithMemoryLimit", "Swap": "WithSwapLimit", "CPUs": "WithCPULimit", "CPUWeight": "WithCPUWeight", "CPUSet": "WithCPUSet",
	"MemorySoft": "WithResources", "OOMGroup": "WithOOMGroup", "Hugetlb": "WithResources", "CPUPeriod": "WithResources", "CPUBurst": "WithResources",
	"CPUIdle": "WithResources", "MemorySet": "WithResources",
	"Pids": "WithPidsLimit", "IO": "WithIOLimit", "IOWeight": "WithIOWeight", "DeviceRules": "WithDeviceRules", "Unified": "WithResources",
}

// sortFaults puts them in the order of the options' names: maps have none.
func sortFaults(f faults) {
	slices.SortStableFunc(f, func(a, b error) int {
		var x, y *OptionError
		if errors.As(a, &x) && errors.As(b, &y) {
			return strings.Compare(x.Option, y.Option)
		}
		return 0
	})
}

func (j *Job) validateStrings(f *faults) {
	total := 0
	for i, arg := range j.Command {
		option := "WithCommand"
		if i > 0 {
			option = "WithCommand (argument " + fmt.Sprint(i) + ")"
		}
		total += len(arg) + 9
		switch {
		case i == 0 && j.program() == "":
			f.add(option, `""`, "empty name")
		case strings.ContainsRune(arg, 0):
			f.add(option, fmt.Sprintf("%q", shorten(arg)), "holds a NUL byte")
		case len(arg) > maxString:
			f.add(option, fmt.Sprintf("%q", shorten(arg)), fmt.Sprintf("%d bytes, the kernel takes %d in one argument", len(arg), maxString))
		}
	}
	if strings.ContainsRune(j.path, 0) || len(j.path) > maxString {
		f.add("Cmd.Path", fmt.Sprintf("%q", shorten(j.path)), "holds a NUL byte, or is longer than the kernel takes")
	}
	for _, kv := range j.Env {
		total += len(kv) + 9
		key, _, ok := strings.Cut(kv, "=")
		switch {
		case !ok || key == "":
			f.add("WithEnv", fmt.Sprintf("%q", shorten(kv)), "not of the form KEY=value")
		case strings.ContainsRune(kv, 0):
			f.add("WithEnv", fmt.Sprintf("%q", shorten(kv)), "holds a NUL byte")
		case len(kv) > maxString:
			f.add("WithEnv", fmt.Sprintf("%q", shorten(kv)), fmt.Sprintf("%d bytes, the kernel takes %d in one variable", len(kv), maxString))
		}
	}
	if total > maxArgs {
		option, n := "WithCommand", len(j.Command)
		if len(j.Env) > n {
			option, n = "WithEnv", len(j.Env)
		}
		f.add(option, fmt.Sprintf("%d strings", n), fmt.Sprintf("arguments and environment have %d bytes together, the kernel takes %d", total, maxArgs), "hand large data over by stdin or a file")
	}
}
