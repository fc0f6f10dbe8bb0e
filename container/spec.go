package container

import (
	"io"
	"os"
	"slices"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// Spec is all that was asked for: plain data, what options leave behind. It
// survives a round trip through JSON but for the readers, writers and files,
// which are the host program's own.
type Spec struct {
	// ID names the container; New makes a random one.
	ID       string            `json:"id,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	StateDir string            `json:"state_dir,omitempty"`

	// Namespaces are new; nil is all but time. HostNamespaces stay the host's.
	Namespaces     []namespace.Kind  `json:"namespaces,omitempty"`
	HostNamespaces []namespace.Kind  `json:"host_namespaces,omitempty"`
	Join           []Join            `json:"join,omitempty"`
	TimeOffsets    *TimeOffsets      `json:"time_offsets,omitempty"`
	Sysctls        map[string]string `json:"sysctls,omitempty"`
	UIDMaps        []namespace.IDMap `json:"uid_maps,omitempty"`
	GIDMaps        []namespace.IDMap `json:"gid_maps,omitempty"`
	Hostname       *string           `json:"hostname,omitempty"`

	Root   *rootfs.Root   `json:"root,omitempty"` // nil is rootfs.Host()
	Mounts []rootfs.Mount `json:"mounts,omitempty"`
	Files  []rootfs.File  `json:"files,omitempty"`

	CgroupParent *string `json:"cgroup_parent,omitempty"`

	StopSignal   *int           `json:"stop_signal,omitempty"`   // nil is SIGTERM
	StopGrace    *time.Duration `json:"stop_grace_ns,omitempty"` // nil is 10 s
	StopOnCancel bool           `json:"stop_on_cancel,omitempty"`

	// Job is the main job; its Command is empty in a container that only waits
	// for Exec.
	Job Job `json:"job"`

	faults []*OptionError // what options could not even store
}

// Join is a namespace that exists already.
type Join struct {
	Kind namespace.Kind `json:"kind"`
	Path string         `json:"path,omitempty"`
	File *os.File       `json:"-"`
}

// TimeOffsets shift the clocks of a new time namespace, time_namespaces(7).
type TimeOffsets struct {
	Monotonic time.Duration `json:"monotonic_ns"`
	Boottime  time.Duration `json:"boottime_ns"`
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
	Umask  *uint32  `json:"umask,omitempty"` // nil is 022

	Rlimits      []security.Rlimit `json:"rlimits,omitempty"`
	Capabilities []string          `json:"capabilities,omitempty"`
	Seccomp      *security.Seccomp `json:"seccomp,omitempty"` // nil is the default

	TimeLimit    *time.Duration `json:"time_limit_ns,omitempty"`
	CPUTimeLimit *time.Duration `json:"cpu_time_limit_ns,omitempty"`
	IdleLimit    *time.Duration `json:"idle_limit_ns,omitempty"`
	OutputLimit  *int64         `json:"output_limit,omitempty"`
	Limits       cgroup.Limits  `json:"limits,omitzero"`
	OOMGroup     *bool          `json:"oom_group,omitempty"` // nil is true

	// Optional names the options without which the start may go on.
	Optional []string `json:"optional,omitempty"`

	Stdin      io.Reader  `json:"-"`
	Stdout     io.Writer  `json:"-"`
	Stderr     io.Writer  `json:"-"`
	ExtraFiles []*os.File `json:"-"`

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
	return namespace.Without(list, s.HostNamespaces...)
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
	return s.ID
}

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
