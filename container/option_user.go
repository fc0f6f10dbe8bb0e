package container

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// UserID is how a user or a group is given: as an id, or as a text, which is a name or
// an id in digits.
type UserID interface{ ~int | ~uint32 | ~string }

// WithUser sets the job's user and group inside the container, as Docker's --user does:
//
//	WithUser(1000, 1000)
//	WithUser("alice")         // and the groups that she has in the container
//	WithUser("alice:staff")   // or WithUser("alice", "staff")
//	WithUser("1000:staff")
//
// Without it both are 0: root of the container's own user namespace, without a
// capability.
//
// Names are looked up in the container's own /etc/passwd and /etc/group when the job
// starts, and nowhere else (no NSS, no daemon); digits are an id, never a name. Without a
// group the user has the one of passwd, or 0 if passwd does not have the user, and with it
// those supplementary groups that /etc/group lists the name in (as far as this host maps
// them: what it does not is in [Container.Dropped]). With a group there are none but
// [WithGroups]'s. The root of [rootfs.Host] knows root and nobody.
//
// HOME is the user's in passwd, where that is a folder in the container, unless WithEnv
// says otherwise; else, and without WithUser, it is /tmp.
//
// The files are read up to 1 MiB, and must be regular ones; links are resolved inside the
// container. Lines that are not what passwd(5) and group(5) say, or have an id that is
// none, do not count. Who may write to them decides who a name is: give ids where the job
// may.
//
// New reports what is no id and no name. Start and Exec report as a [*StartError] a name
// that is not there, a file that cannot be used, ids that are not mapped, and the one id
// that init has for itself; with automatic maps 0 to 65534 are there, or 0 alone for an
// unprivileged host user without a range in /etc/subuid.
//
// In another root than [rootfs.Host] a start waits for the container to be ready and takes a
// few round trips to its init longer, to look a name up or the HOME of an id; with ids and
// a HOME of WithEnv it does not.
func WithUser[ID UserID](user ID, group ...ID) JobOption {
	text := fmt.Sprint(user)
	for _, g := range group {
		text += ":" + fmt.Sprint(g)
	}
	return newJobOption("WithUser", formatted("%q", text), func(j *Job) {
		j.UID, j.GID, j.User = nil, nil, ""
		uid, gid, _ := strings.Cut(text, ":")
		u, isID := parseID(uid)
		g, isGroupID := parseID(gid)
		if isID && isGroupID {
			j.UID, j.GID = &u, &g
		} else if j.User = text; text == "" {
			j.fault("WithUser", text, "empty name") // else nobody would see that it was asked for
		}
	})
}

// WithGroups adds supplementary groups, by their ids or by names, which are looked up as
// [WithUser] does; without it there are none but those that WithUser brings.
func WithGroups[ID UserID](groups ...ID) JobOption {
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = fmt.Sprint(g)
	}
	return newJobOption("WithGroups", quoted(names), func(j *Job) {
		for _, name := range names {
			if id, ok := parseID(name); ok {
				j.Groups = append(slices.Clip(j.Groups), id)
			} else {
				j.GroupNames = append(slices.Clip(j.GroupNames), name)
			}
		}
	})
}

func (j *Job) fault(option, value, reason string) {
	j.faults = append(j.faults, &OptionError{Option: option, Value: shorten(fmt.Sprintf("%q", value)), Reason: reason})
}

// parseID reads an id in digits.
func parseID(text string) (uint32, bool) {
	if !digits(text) {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil && n <= maxID
}

func digits(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}

const maxName = 256 // LOGIN_NAME_MAX

// userFault tells what keeps a text from being a user's or a group's name or id.
func userFault(text string) string {
	_, isID := parseID(text)
	signed := len(text) > 1 && strings.ContainsRune("+-", rune(text[0])) && digits(text[1:]) // which the parser takes for an id
	switch {
	case text == "":
		return "empty name"
	case (digits(text) || signed) && !isID:
		return fmt.Sprintf("not an id: the last is %d", uint32(math.MaxUint32-1))
	case len(text) > maxName:
		return fmt.Sprintf("a name of %d bytes, at most %d", len(text), maxName)
	case strings.ContainsAny(text, ":,") || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return "a name with a colon, a comma, a space or a control character"
	}
	return ""
}

// validateUser tells what is wrong with ids and names of a job.
func (j *Job) validateUser(f *faults) {
	for _, id := range []uint32{j.uid(), j.gid()} {
		if id > maxID {
			f.add("WithUser", id, "not an id: the last is 4294967294")
		}
	}
	if j.User != "" {
		for _, name := range strings.SplitN(j.User, ":", 2) {
			if reason := userFault(name); reason != "" {
				f.add("WithUser", fmt.Sprintf("%q", shorten(j.User)), reason)
			}
		}
		if j.UID != nil || j.GID != nil {
			f.add("WithUser", fmt.Sprintf("%q", shorten(j.User)), "both a text and ids", "leave one of them out")
		}
	}
	if slices.Contains(j.Groups, maxID+1) || len(j.Groups)+len(j.GroupNames) > maxGroups {
		f.add("WithGroups", fmt.Sprintf("%d groups", len(j.Groups)+len(j.GroupNames)), "an id that is none, or more than 65,536")
	}
	for _, name := range j.GroupNames {
		if reason := userFault(name); reason != "" {
			f.add("WithGroups", fmt.Sprintf("%q", shorten(name)), reason)
		}
	}
}

// named tells that somebody has to be looked up.
func (j *Job) named() bool { return j.User != "" || len(j.GroupNames) > 0 }
