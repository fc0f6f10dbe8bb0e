package launcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"strconv"
	"strings"

	"github.com/moby/sys/user"

	"github.com/inlay-dev/inlay/internal/plan"
)

// SubIDPath names a file of subordinate ids, subuid(5) and subgid(5).
const (
	SubUIDPath = "/etc/subuid"
	SubGIDPath = "/etc/subgid"
)

// RangeSize is how many ids a container has.
const RangeSize = 65536

// writeMaps writes the id maps of the launcher's own user namespace: the user's
// own id as 0 and a range from /etc/subuid above it, by newuidmap(1), or the
// single id where that cannot be had.
func (l *Launcher) writeMaps(ctx context.Context) error {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
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
	proc := fmt.Sprintf("/proc/%d/", l.pid)
	// setgroups must be given up before a group map is written without
	// CAP_SETGID in the parent namespace, user_namespaces(7).
	for _, f := range []struct{ name, content string }{
		{"setgroups", "deny"},
		{"uid_map", MapText(l.UIDs)},
		{"gid_map", MapText(l.GIDs)},
	} {
		if err := writeProc(proc+f.name, f.content); err != nil {
			return &Error{Op: "write", Path: proc + f.name, Err: err, Remedy: "see container.Probe: user namespaces"}
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
		if s.Count <= 0 || s.SubID <= 0 || s.SubID+s.Count > 1<<32-1 {
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

// Arch is this machine's architecture, for encoding plans.
const Arch = plan.Arch(archName)
