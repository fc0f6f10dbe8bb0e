package container

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
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
	s.validateRoot(&f)
	s.validateStop(&f)
	s.Job.validate(&f)
	if !s.isNew(namespace.User) && slices.Contains(s.Job.Capabilities, "CAP_SYS_PTRACE") {
		f.add("WithCapabilities", "CAP_SYS_PTRACE", "refused together with WithHostNamespace(user): the job could take init over", "leave one of them out")
	}
	return errors.Join(f...)
}

func (s *Spec) validateIdentity(f *faults) {
	if err := validateID(s.ID); err != nil {
		f.add("WithID", fmt.Sprintf("%q", s.ID), err.Error())
	}
	for k, v := range s.Labels {
		if k == "" || strings.ContainsAny(k+v, "\n\x00") {
			f.add("WithLabel", fmt.Sprintf("%q, %q", k, v), "an empty key, a newline or a NUL byte")
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
	for _, j := range s.Join {
		option := "WithJoinNamespace"
		switch {
		case !j.Kind.Valid():
			f.add(option, fmt.Sprintf("%q", j.Kind), "no such kind", fmt.Sprint(namespace.All()))
		case j.File == nil && j.Path == "": // WithJoinNamespaceFile has said so
		case j.File == nil && !strings.HasPrefix(j.Path, "container:") && !path.IsAbs(j.Path):
			f.add(option, fmt.Sprintf("%s, %q", j.Kind, j.Path), "not an absolute path")
		case slices.Contains(s.HostNamespaces, j.Kind):
			f.add(option, j.Kind, "WithHostNamespace names the same kind", "leave one of them out")
		}
	}
	if s.TimeOffsets != nil && !s.isNew(namespace.Time) {
		f.add("WithTimeOffsets", s.TimeOffsets.Monotonic, "needs a time namespace of its own", "add WithNamespaces with namespace.Time")
	}
	for name, value := range s.Sysctls {
		if name == "" || strings.ContainsAny(name, "/\x00\n ") || strings.Contains(name, "..") || strings.ContainsAny(value, "\x00\n") {
			f.add("WithSysctl", fmt.Sprintf("%q, %q", name, value), "not a name with dots and a value of one line")
		}
	}
	s.validateIDs(f)
	switch {
	case s.Hostname == nil:
	case !s.isNew(namespace.UTS):
		f.add("WithHostname", fmt.Sprintf("%q", *s.Hostname), "the container has the host's UTS namespace (WithNamespaces or WithHostNamespace)", "leave one of them out")
	default:
		if err := namespace.ValidateHostname(*s.Hostname); err != nil {
			f.add("WithHostname", fmt.Sprintf("%q", shorten(*s.Hostname)), err.Error())
		}
	}
}

func (s *Spec) validateIDs(f *faults) {
	if s.UIDMaps == nil && s.GIDMaps == nil {
		return
	}
	shown := fmt.Sprintf("%v, %v", s.UIDMaps, s.GIDMaps)
	if !s.isNew(namespace.User) {
		f.add("WithIDMaps", shown, "WithHostNamespace(user) leaves no user namespace to map", "leave one of them out")
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
		if _, ok := namespace.ToHost(m.maps, m.id); !ok {
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
		if m.Budget() && !s.isNew(namespace.User) {
			f.add("WithMounts", shown, "a size or inodes together with WithHostNamespace(user): a job could give its files to another project")
		}
		if at := path.Clean(m.Target); targets[at] {
			f.add("WithMounts", shown, "something else is mounted there already")
		} else {
			targets[at] = true
		}
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
	for _, id := range []uint32{j.uid(), j.gid()} {
		if id > maxID {
			f.add("WithUser", id, "not an id: the last is 4294967294")
		}
	}
	if slices.Contains(j.Groups, maxID+1) || len(j.Groups) > maxGroups {
		f.add("WithGroups", fmt.Sprintf("%d groups", len(j.Groups)), "an id that is none, or more than 65,536")
	}
	if j.Umask != nil && *j.Umask > 0o777 {
		f.add("WithUmask", fmt.Sprintf("%#o", *j.Umask), "above 0777")
	}
	for _, r := range j.Rlimits {
		if err := r.Validate(); err != nil {
			f.add("WithRlimit", fmt.Sprintf("%q, %d, %d", r.Name, r.Soft, r.Hard), err.Error())
		}
	}
	if _, err := security.CapabilityBits(j.Capabilities); err != nil {
		f.add("WithCapabilities", quoted(j.Capabilities), err.Error())
	}
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
		case i == 0 && arg == "":
			f.add(option, `""`, "empty name")
		case strings.ContainsRune(arg, 0):
			f.add(option, fmt.Sprintf("%q", shorten(arg)), "holds a NUL byte")
		case len(arg) > maxString:
			f.add(option, fmt.Sprintf("%q", shorten(arg)), fmt.Sprintf("%d bytes, the kernel takes %d in one argument", len(arg), maxString))
		}
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
