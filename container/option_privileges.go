package container

import (
	"fmt"
	"slices"

	"github.com/inlay-dev/inlay/security"
)

// WithCapabilities gives the job capabilities in its own user namespace, by
// OCI's or Docker's names ("CAP_NET_ADMIN", "net_admin"): in all five sets, so
// that they outlive execve(2) for other users than root as well. Without it all
// five sets are empty. See capabilities(7).
//
// A job with CAP_SYS_ADMIN can change the container's mounts: take off what covers
// something, and make a read-only [rootfs.Bind] writable, which the files' modes alone
// then protect; without a user namespace, as the host's root, nothing does. Nor are the
// masks of /proc and the read-only root a boundary for it.
//
// Without a user namespace CAP_SYS_PTRACE is refused: such a job could take init
// over.
func WithCapabilities(names ...string) JobOption {
	names = slices.Clone(names)
	return newJobOption("WithCapabilities", quoted(names), func(j *Job) {
		j.Capabilities = j.addCapabilities("WithCapabilities", j.Capabilities, names)
	})
}

// WithAmbientCapabilities says which of the job's capabilities are ambient, and so
// outlive the execve(2) of a program that neither is set-user-ID nor has
// capabilities of its own: without it all are, and without a name none. A job of
// another user than 0 then begins without those that are left out, but keeps them in
// its bounding set, for programs with file capabilities; that needs
// WithNoNewPrivileges(false).
//
// New reports names that WithCapabilities does not have.
func WithAmbientCapabilities(names ...string) JobOption {
	names = slices.Clone(names)
	return newJobOption("WithAmbientCapabilities", quoted(names), func(j *Job) {
		list := []string{}
		if j.Ambient != nil {
			list = *j.Ambient
		}
		list = j.addCapabilities("WithAmbientCapabilities", list, names)
		j.Ambient = &list
	})
}

func (j *Job) addCapabilities(option string, list, names []string) []string {
	for _, n := range names {
		canonical, err := security.ParseCapability(n)
		if err != nil {
			j.faults = append(j.faults, &OptionError{Option: option, Value: fmt.Sprintf("%q", n), Reason: err.Error()})
			continue
		}
		if !slices.Contains(list, canonical) {
			list = append(slices.Clip(list), canonical)
		}
	}
	return list
}

// WithSecurebits sets securebits of the job's threads, by the names of
// capabilities(7) ("SECBIT_NOROOT") or systemd's ("noroot-locked"): how the
// kernel treats user id 0 on execve(2) and when ids change. Without it none is set.
//
// With noroot, id 0 is an id like any other: its programs have the capabilities that are
// ambient, and no more.
func WithSecurebits(names ...string) JobOption {
	names = slices.Clone(names)
	return newJobOption("WithSecurebits", quoted(names), func(j *Job) {
		for _, n := range names {
			canonical, err := security.ParseSecurebit(n)
			if err != nil {
				j.faults = append(j.faults, &OptionError{Option: "WithSecurebits", Value: fmt.Sprintf("%q", n), Reason: err.Error()})
				continue
			}
			if !slices.Contains(j.Securebits, canonical) {
				j.Securebits = append(slices.Clip(j.Securebits), canonical)
			}
		}
	})
}

// WithNoNewPrivileges says whether the job and what it starts can gain nothing by
// execve(2), prctl(2) PR_SET_NO_NEW_PRIVS: true without it. With false, programs that
// are set-user-ID, or have file capabilities, act as such on mounts with
// [rootfs.Suid]; all others are nosuid. Even then they have no
// capability that WithCapabilities does not name, and no id outside of the
// container's.
//
// The seccomp profile is then attached before the job's ids and capabilities are set, since the
// kernel asks for CAP_SYS_ADMIN: a profile of one's own has to allow prctl,
// setresuid, setresgid, capset, chdir, getcwd and rt_sigprocmask as well.
func WithNoNewPrivileges(on bool) JobOption {
	return newJobOption("WithNoNewPrivileges", on, func(j *Job) { j.NoNewPrivileges = &on })
}

// validatePrivileges finds what contradicts itself.
func (j *Job) validatePrivileges(f *faults) {
	if _, err := security.CapabilityBits(j.Capabilities); err != nil {
		f.add("WithCapabilities", quoted(j.Capabilities), err.Error())
	}
	if _, err := security.SecurebitsMask(j.Securebits); err != nil {
		f.add("WithSecurebits", quoted(j.Securebits), err.Error())
	}
	if j.Ambient == nil {
		return
	}
	if _, err := security.CapabilityBits(*j.Ambient); err != nil {
		f.add("WithAmbientCapabilities", quoted(*j.Ambient), err.Error())
	}
	for _, n := range *j.Ambient {
		if !slices.Contains(j.Capabilities, n) {
			f.add("WithAmbientCapabilities", n, "the job does not have it", "name it in WithCapabilities too")
		}
	}
}
