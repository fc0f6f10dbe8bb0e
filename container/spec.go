package container

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// Spec is all that was asked for: plain data, what options leave behind. It
// survives a round trip through JSON but for the readers, writers, files and the
// logger, which are the host program's own.
type Spec struct {
	// ID names the container; New makes a random one.
	ID       string            `json:"id,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	StateDir string            `json:"state_dir,omitempty"`
	Logger   *slog.Logger      `json:"-"`
	Trace    bool              `json:"trace,omitempty"`

	// Namespaces are new; nil is all but time. HostNamespaces stay the host's.
	Namespaces     []namespace.Kind       `json:"namespaces,omitempty"`
	HostNamespaces []namespace.Kind       `json:"host_namespaces,omitempty"`
	Join           []Join                 `json:"join,omitempty"`
	TimeOffsets    *namespace.TimeOffsets `json:"time_offsets,omitempty"`
	Sysctls        map[string]string      `json:"sysctls,omitempty"`
	UIDMaps        []namespace.IDMap      `json:"uid_maps,omitempty"`
	GIDMaps        []namespace.IDMap      `json:"gid_maps,omitempty"`
	Hostname       *string                `json:"hostname,omitempty"`
	Domainname     *string                `json:"domainname,omitempty"`

	// UserNamespaceCreation lets jobs make user namespaces.
	UserNamespaceCreation bool `json:"user_namespace_creation,omitempty"`

	Root   *rootfs.Root   `json:"root,omitempty"` // nil is rootfs.Host()
	Mounts []rootfs.Mount `json:"mounts,omitempty"`
	Files  []rootfs.File  `json:"files,omitempty"`

	Symlinks []rootfs.Symlink `json:"symlinks,omitempty"`
	Devices  []rootfs.Device  `json:"devices,omitempty"`

	// Network is a driver's: what is the host's or is joined stands in the lists above.
	// nil is lo alone.
	Network   *Network `json:"network,omitempty"`
	Bandwidth *Rate    `json:"bandwidth,omitempty"`

	CgroupParent *string `json:"cgroup_parent,omitempty"`

	StopSignal   *int           `json:"stop_signal,omitempty"`   // nil is SIGTERM
	StopGrace    *time.Duration `json:"stop_grace_ns,omitempty"` // nil is 10 s
	StopOnCancel bool           `json:"stop_on_cancel,omitempty"`

	// Job is the main job; its Command is empty in a container that only waits
	// for Exec.
	Job Job `json:"job"`

	faults []*OptionError // what options could not even store
}

// Join is a namespace that exists already: by its path, an open file, or the ID of the
// container that has it. Of the latter two JSON keeps no more than that.
type Join struct {
	Kind      namespace.Kind `json:"kind"`
	Path      string         `json:"path,omitempty"`
	Container string         `json:"container,omitempty"`
	File      *os.File       `json:"-"`

	of *Container
}

// option is how it was asked for.
func (j *Join) option() string {
	switch {
	case j.Path != "":
		return "WithJoinNamespace"
	case j.Container != "":
		return "WithNamespaceOf"
	default:
		return "WithJoinNamespaceFile"
	}
}

// String is as the option was written.
func (j *Join) String() string {
	switch {
	case j.Path != "":
		return fmt.Sprintf("%s, %q", j.Kind, j.Path)
	case j.Container != "":
		return j.Container + ", " + string(j.Kind)
	default:
		return string(j.Kind)
	}
}

// Job is what was asked for one program: the main job's in New, another's in
// Exec.
type Job struct {
	Command []string `json:"command,omitempty"`
	Env     []string `json:"env,omitempty"` // "KEY=value"; the later wins
	Dir     string   `json:"dir,omitempty"`

	UID    *uint32  `json:"uid,omitempty"` // nil is 0
	GID    *uint32  `json:"gid,omitempty"`
	Groups []uint32 `json:"groups,omitempty"`
	// User is a user by name, or without a group, and GroupNames are further groups:
	// they are looked up in the container.
	User       string   `json:"user,omitempty"`
	GroupNames []string `json:"group_names,omitempty"`

	Umask *uint32 `json:"umask,omitempty"` // nil is 022

	Rlimits      []security.Rlimit `json:"rlimits,omitempty"`
	Capabilities []string          `json:"capabilities,omitempty"`
	Ambient      *[]string         `json:"ambient,omitempty"` // nil is all of Capabilities
	Securebits   []string          `json:"securebits,omitempty"`
	// NoNewPrivileges is nil for true.
	NoNewPrivileges *bool `json:"no_new_privileges,omitempty"`

	Seccomp  *security.Seccomp  `json:"seccomp,omitempty"`  // nil is the default
	Landlock *security.Landlock `json:"landlock,omitempty"` // nil is none

	TimeLimit    *time.Duration `json:"time_limit_ns,omitempty"`
	CPUTimeLimit *time.Duration `json:"cpu_time_limit_ns,omitempty"`
	IdleLimit    *time.Duration `json:"idle_limit_ns,omitempty"`
	OutputLimit  *int64         `json:"output_limit,omitempty"`
	Limits       cgroup.Limits  `json:"limits,omitzero"`
	OOMGroup     *bool          `json:"oom_group,omitempty"` // nil is true

	// Terminal is nil for none.
	Terminal *TerminalSize `json:"terminal,omitempty"`

	// Optional names the options without which the start may go on.
	Optional []string `json:"optional,omitempty"`

	Stdin      io.Reader  `json:"-"`
	Stdout     io.Writer  `json:"-"`
	Stderr     io.Writer  `json:"-"`
	ExtraFiles []*os.File `json:"-"`

	// What a Cmd has more to say.
	path      string        // the program; "" is Command[0]
	wholeEnv  bool          // Env is all of it, without the defaults
	waitDelay time.Duration // how long output is waited for after the end; 0 is drainTime

	home string // "": /tmp

	faults []*OptionError
}

// newNamespaces is the list of kinds that are new.
func (s *Spec) newNamespaces() []namespace.Kind {
	list := s.Namespaces
	if list == nil {
		list = namespace.Default()
	}
	for _, k := range []namespace.Kind{namespace.User, namespace.Cgroup, namespace.Mount} {
		if !slices.Contains(list, k) {
			list = append(slices.Clone(list), k)
		}
	}
	if s.TimeOffsets != nil && !slices.Contains(list, namespace.Time) {
		list = append(slices.Clone(list), namespace.Time)
	}
	for i := range s.Join {
		list = namespace.Without(list, s.Join[i].Kind)
	}
	return namespace.Without(list, s.HostNamespaces...)
}

// joins is the namespace of a kind that the container joins; nil: none.
func (s *Spec) joins(k namespace.Kind) *Join {
	for i := range s.Join {
		if s.Join[i].Kind == k {
			return &s.Join[i]
		}
	}
	return nil
}

// hostUser tells that the container's ids are the host's.
func (s *Spec) hostUser() bool {
	return !s.isNew(namespace.User) && s.joins(namespace.User) == nil
}

// hostNames tells that names are looked up as on the host: by its resolv.conf and hosts.
func (s *Spec) hostNames() bool {
	if j := s.joins(namespace.Network); j != nil && j.of != nil {
		return j.of.spec.hostNames()
	}
	return !s.isNew(namespace.Network)
}

func (s *Spec) isNew(k namespace.Kind) bool { return slices.Contains(s.newNamespaces(), k) }

func (s *Spec) root() rootfs.Root {
	if s.Root == nil {
		return rootfs.Host()
	}
	return *s.Root
}

func (s *Spec) hostname() string {
	if s.Hostname != nil {
		return *s.Hostname
	}
	if j := s.joins(namespace.UTS); j != nil && j.of != nil {
		return j.of.spec.hostname()
	}
	return s.ID
}

// sysctlPaths are the parameters as paths below /proc/sys, in the order of their
// names.
func (s *Spec) sysctlPaths() [][2]string {
	var out [][2]string
	for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
		out = append(out, [2]string{strings.ReplaceAll(name, ".", "/"), s.Sysctls[name]})
	}
	return out
}

// drainTime is how long output is waited for after a job whose descendants hold
// its pipes open.
const drainTime = time.Second

// program is what is executed.
func (j *Job) program() string { return cmp.Or(j.path, j.Command[0]) }

func (j *Job) uid() uint32 {
	if j.UID == nil {
		return 0
	}
	return *j.UID
}

func (j *Job) gid() uint32 {
	if j.GID == nil {
		return 0
	}
	return *j.GID
}

func (j *Job) optional(option string) bool { return slices.Contains(j.Optional, option) }

// stagedMounts are the staged workspaces.
func (s *Spec) stagedMounts() []rootfs.Mount {
	return slices.DeleteFunc(slices.Clone(s.Mounts), func(m rootfs.Mount) bool { return m.Type != "workspace" || !m.Staged })
}
