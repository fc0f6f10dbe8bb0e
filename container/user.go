package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"

	"github.com/inlay-dev/inlay/rootfs"
)

// maxAccounts is how much of passwd and of group is read, in bytes: who may write them
// says how much there is.
const maxAccounts = 1 << 20

// accounts are the texts of passwd and group; nil: there is no such file.
type accounts struct{ passwd, group []byte }

// noAccountError is why somebody was not found.
type noAccountError struct{ what, name, file string }

func (e *noAccountError) Error() string { return fmt.Sprintf("no %s %q", e.what, e.name) }

// lookUp settles who the job is: its ids, groups, and home. It returns the groups that
// nobody has named: those that passwd's user is in.
func (a accounts) lookUp(j *Job) (implied []uint32, err error) {
	asked := j.User
	if asked == "" {
		asked = fmt.Sprintf("%d:%d", j.uid(), j.gid())
	}
	who, err := user.GetExecUser(asked, nil, reader(wellFormed(a.passwd, 2, 3)), reader(wellFormed(a.group, 2)))
	name, groupName, _ := strings.Cut(asked, ":")
	switch {
	case errors.Is(err, user.ErrNoPasswdEntries):
		return nil, &noAccountError{"user", name, "/etc/passwd"}
	case errors.Is(err, user.ErrNoGroupEntries):
		return nil, &noAccountError{"group", groupName, "/etc/group"}
	case err != nil:
		return nil, err
	}
	j.home = ""
	if rootfs.ValidateInside(who.Home) == nil {
		j.home = who.Home
	}
	if j.User != "" {
		uid, gid := uint32(who.Uid), uint32(who.Gid)
		j.UID, j.GID, j.User = &uid, &gid, ""
		for _, g := range who.Sgids {
			implied = append(implied, uint32(g))
		}
	}
	for _, name := range j.GroupNames {
		ids, err := user.GetAdditionalGroups([]string{name}, reader(wellFormed(a.group, 2)))
		if err != nil || len(ids) != 1 {
			return nil, &noAccountError{"group", name, "/etc/group"}
		}
		j.addGroup(uint32(ids[0]))
	}
	j.GroupNames = nil
	return implied, nil
}

func (j *Job) addGroup(id uint32) {
	if !slices.Contains(j.Groups, id) {
		j.Groups = append(slices.Clip(j.Groups), id)
	}
}

// reader is nil for a file that is not there.
func reader(text []byte) io.Reader {
	if text == nil {
		return nil
	}
	return bytes.NewReader(text)
}

// wellFormed returns the lines that have a name, and in the fields ids what is an id: the
// parser takes whatever is no number for 0.
func wellFormed(text []byte, ids ...int) []byte {
	if text == nil {
		return nil
	}
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		list := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
		good := len(list) > slices.Max(ids) && list[0] != "" && strings.TrimSpace(list[0]) == list[0] && !bytes.ContainsRune(line, 0)
		for _, i := range ids {
			if good {
				_, good = parseID(list[i])
			}
		}
		if good {
			out = append(out, line...)
		}
	}
	return out
}

// standIns puts ids into a job whose user is not looked up yet, for a plan that is only
// shown; what it returns makes placeholders of them.
func (j *Job) standIns() *strings.Replacer {
	if !j.named() {
		return strings.NewReplacer()
	}
	var pairs []string
	next := uint32(maxID)
	stand := func(name string) uint32 {
		next--
		pairs = append(pairs, strconv.FormatUint(uint64(next), 10), "<"+name+">")
		return next
	}
	if j.User != "" {
		name, group, both := strings.Cut(j.User, ":")
		if !both {
			group = "group of " + name
		}
		uid, gid := stand(name), stand(group)
		j.UID, j.GID = &uid, &gid
	}
	for _, name := range j.GroupNames {
		j.Groups = append(slices.Clip(j.Groups), stand(name))
	}
	return strings.NewReplacer(pairs...)
}
