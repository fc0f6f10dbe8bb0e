package launcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/plan"
)

// SubIDPath names a file of subordinate ids, subuid(5) and subgid(5).
const (
	SubUIDPath = "/etc/subuid"
	SubGIDPath = "/etc/subgid"
)

// RangeSize is how many ids a container has.
const RangeSize = 65536

// ownMaps are the id maps of this process's own user namespace, which do not
// change; what cannot be read counts as the host's first namespace, which has
// all ids.
var ownMaps = sync.OnceValue(func() (maps [2][]user.IDMap) {
	for i, file := range []string{"uid_map", "gid_map"} {
		var err error
		if maps[i], err = user.ParseIDMapFile("/proc/self/" + file); err != nil {
			maps[i] = []user.IDMap{{ID: 0, ParentID: 0, Count: 1<<32 - 1}}
		}
	}
	return maps
})

// rangeIsOurs tells whether a range of ids exists in this process's user
// namespace.
func rangeIsOurs(first uint32) bool {
	for _, maps := range ownMaps() {
		if !slices.ContainsFunc(maps, func(m user.IDMap) bool {
			return m.ID <= int64(first) && m.ID+m.Count >= int64(first)+RangeSize
		}) {
			return false
		}
	}
	return true
}

// firstNamespace tells that this process is in the host's first user namespace.
func firstNamespace() bool {
	for _, maps := range ownMaps() {
		if len(maps) != 1 || maps[0] != (user.IDMap{ID: 0, ParentID: 0, Count: 1<<32 - 1}) {
			return false
		}
	}
	return true
}

// OwnIDs are the ids of this process's own user namespace that its launcher's
// can map to themselves: root of a container that has a range (rootless Podman,
// LXC) needs no other. It is an error where there are too few, or where this
// process may not map them.
func OwnIDs() (uids, gids []IDMap, err error) {
	if os.Geteuid() != 0 || firstNamespace() || !capable(unix.CAP_SETUID, unix.CAP_SETGID) {
		return nil, nil, fmt.Errorf("not root of a user namespace of its own: %w", unix.EPERM)
	}
	for i, to := range []*[]IDMap{&uids, &gids} {
		sum := uint32(0)
		for _, m := range ownMaps()[i] {
			if m.ID < RangeSize {
				n := uint32(min(m.Count, RangeSize-m.ID))
				*to = append(*to, IDMap{uint32(m.ID), uint32(m.ID), n})
				sum += n
			}
		}
		if sum < RangeSize {
			return nil, nil, fmt.Errorf("this user namespace has %d of the ids below %d: %w", sum, RangeSize, unix.EINVAL)
		}
	}
	return uids, gids, nil
}

// writeMaps writes the id maps of the launcher's own user namespace: the ids of
// this process's, where it is root there; else the user's own id as 0 and a range
// from /etc/subuid above it, by newuidmap(1), or the single id where that cannot
// be had.
func (l *Launcher) writeMaps(ctx context.Context) error {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	proc := fmt.Sprintf("/proc/%d/", l.pid)
	if uids, gids, err := OwnIDs(); err == nil {
		if err = writeProc(proc+"uid_map", MapText(uids)); err == nil {
			if err = writeProc(proc+"gid_map", MapText(gids)); err != nil {
				return &Error{Op: "write", Path: proc + "gid_map", Err: err, Remedy: "the user map could be written, the group map must be as well"}
			}
			l.UIDs, l.GIDs = uids, gids
			return nil
		}
		// Since Linux 5.12 it takes CAP_SETFCAP to map 0.
	}
	uids, gids, err := subordinate(uid, gid)
	if err == nil {
		if err = newMap(ctx, "newuidmap", l.pid, uids); err == nil {
			if err = newMap(ctx, "newgidmap", l.pid, gids); err != nil {
				// The user map is written and cannot be written again.
				return &Error{Op: "newgidmap", Err: err, Remedy: "newuidmap works, newgidmap must as well: see newgidmap(1)"}
			}
			l.UIDs, l.GIDs = uids, gids
			return nil
		}
	}
	if ctx.Err() != nil {
		return &Error{Op: "newuidmap", Err: context.Cause(ctx)}
	}
	l.MapsNote = err.Error()
	l.UIDs, l.GIDs = []IDMap{{0, uid, 1}}, []IDMap{{0, gid, 1}}
	// setgroups must be given up before a group map is written without
	// CAP_SETGID in the parent namespace, user_namespaces(7).
	for _, f := range []struct{ name, content string }{
		{"setgroups", "deny"},
		{"uid_map", MapText(l.UIDs)},
		{"gid_map", MapText(l.GIDs)},
	} {
		if err := writeProc(proc+f.name, f.content); err != nil {
			remedy := "see container.Probe: user namespaces"
			if uid == 0 && !capable(unix.CAP_SETFCAP) {
				remedy = "root without CAP_SETFCAP may not map itself since Linux 5.12: give the capability, or run as another user"
			}
			return &Error{Op: "write", Path: proc + f.name, Err: err, Remedy: remedy}
		}
	}
	return nil
}

func writeProc(path, content string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// MapText is the content of a uid_map or gid_map file.
func MapText(maps []IDMap) string {
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.Inside, m.Outside, m.Size)
	}
	return b.String()
}

// subordinate reads the ranges that the host's administrator gave to the user.
func subordinate(uid, gid uint32) (uids, gids []IDMap, err error) {
	name := strconv.FormatUint(uint64(uid), 10)
	names := []string{name}
	if u, err := osuser.LookupId(name); err == nil {
		names = append(names, u.Username)
	}
	if uids, err = ranges(SubUIDPath, names, uid); err != nil {
		return nil, nil, err
	}
	if gids, err = ranges(SubGIDPath, names, gid); err != nil {
		return nil, nil, err
	}
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, nil, fmt.Errorf("%s is not installed (package uidmap or shadow-utils): %w", tool, err)
		}
	}
	return uids, gids, nil
}

func ranges(path string, names []string, own uint32) ([]IDMap, error) {
	list, err := user.ParseSubIDFileFilter(path, func(s user.SubID) bool {
		for _, n := range names {
			if s.Name == n {
				return true
			}
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	maps := []IDMap{{0, own, 1}}
	next := uint32(1)
	for _, s := range list {
		const end = 1<<32 - 1 // the number that is no id
		if s.Count <= 0 || s.Count > end || s.SubID <= 0 || s.SubID > end-s.Count {
			continue
		}
		// A line that is there twice, or holds the user's own id: the kernel takes no
		// maps that overlap.
		if slices.ContainsFunc(maps, func(m IDMap) bool {
			return s.SubID < int64(m.Outside)+int64(m.Size) && int64(m.Outside) < s.SubID+s.Count
		}) {
			continue
		}
		n := uint32(min(s.Count, int64(RangeSize+1-next)))
		maps = append(maps, IDMap{next, uint32(s.SubID), n})
		if next += n; next > RangeSize {
			break
		}
	}
	if next < RangeSize {
		return nil, fmt.Errorf("%s gives %d ids to %s, a container has %d", path, next-1, names[len(names)-1], RangeSize)
	}
	return maps, nil
}

// newMap runs newuidmap(1) or newgidmap(1): setuid programs that write a map
// which the user may have but not write.
func newMap(ctx context.Context, tool string, pid int, maps []IDMap) error {
	args := []string{strconv.Itoa(pid)}
	for _, m := range maps {
		args = append(args, fmt.Sprint(m.Inside), fmt.Sprint(m.Outside), fmt.Sprint(m.Size))
	}
	out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", tool, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// SingleID tells that containers have one user alone, 0, who is init's as well.
func (l *Launcher) SingleID() bool { return l.User && len(l.UIDs) == 1 && l.UIDs[0].Size == 1 }

// Arch is this machine's architecture, for encoding plans.
const Arch = plan.Arch(runtime.GOARCH)
