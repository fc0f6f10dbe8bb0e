package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// ErrNoManager means that no systemd has to be asked: none runs, or it gave this
// program groups of its own (Delegate=yes), or the hierarchy is not v2.
var ErrNoManager = errors.New("no systemd whose groups these are")

// patience bounds a question to systemd.
const patience = 10 * time.Second

// Scope asks systemd for a group in which this program may make groups, where all
// that it could write to is systemd's own: a transient scope with Delegate=yes
// (systemd, docs/CGROUP_DELEGATION.md, "Three Scenarios"). A scope needs a process:
// pid, of this user's, is moved to a leaf of it, inlay-host. When that process and
// all others in the scope have ended, systemd removes it with all that is below.
//
// Root asks the system's manager, another user the user's, both at their own
// sockets: no bus is needed. name is the unit's, without its suffix; a number
// follows where it is taken.
func Scope(ctx context.Context, name string, pid int) (*Group, error) {
	h, err := managed()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := dialManager(ctx)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	unit := ""
	for n := 0; ; n++ {
		unit = name + ".scope"
		if n > 0 {
			unit = name + "-" + strconv.Itoa(n) + ".scope"
		}
		err := startScope(ctx, m, unit, pid)
		var taken dbus.Error
		if errors.As(err, &taken) && taken.Name == "org.freedesktop.systemd1.UnitExists" && n < 100 {
			continue
		}
		if err != nil {
			return nil, &Error{Op: "start", Path: unit, Err: err, Remedy: "see the manager's journal, or name a group by WithCgroupParent"}
		}
		break
	}
	// Where this fails the scope stays: to stop it would be to kill the process.
	return enterScope(h, unit, pid)
}

// ScopeParent opens the group that Scope would make its own in, which tells what
// limits it could keep. Nothing may be made below it.
func ScopeParent(ctx context.Context) (*Group, error) {
	h, err := managed()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := dialManager(ctx)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	text, err := m.GetManagerProperty("ControlGroup")
	if err != nil {
		return nil, &Error{Op: "ask", Path: "ControlGroup", Err: err}
	}
	at, err := strconv.Unquote(text)
	if err != nil {
		return nil, &Error{Op: "ask", Path: "ControlGroup", Err: fmt.Errorf("it answered %s: %w", text, err)}
	}
	return openTop([]hierarchy{h}, func(hierarchy) string { return path.Join("/", at) })
}

// managed is the v2 hierarchy in which systemd owns the place where this program
// could make groups; ErrNoManager where that is not so.
func managed() (hierarchy, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return hierarchy{}, ErrNoManager
	}
	// A container may see the host's /run; in its PID namespace the manager would
	// take pid for another process.
	if comm, err := os.ReadFile("/proc/1/comm"); err != nil || strings.TrimSpace(string(comm)) != "systemd" {
		return hierarchy{}, ErrNoManager
	}
	hs, err := hierarchies()
	if err != nil {
		return hierarchy{}, &Error{Op: "read", Path: "/proc/self/cgroup", Err: err}
	}
	if len(hs) != 1 || !hs[0].unified {
		return hierarchy{}, ErrNoManager
	}
	h := hs[0]
	unit := unitOf(h.own)
	if unit == "" {
		return hierarchy{}, ErrNoManager
	}
	if place := h.nearest(); (place == unit || strings.HasPrefix(place, unit+"/")) && delegated(filepath.Join(h.mount, unit), unit) {
		return hierarchy{}, ErrNoManager
	}
	return h, nil
}

// unitOf is the innermost service or scope that a group is or is in; "" if there
// is none: systemd.unit(5).
func unitOf(group string) string {
	for at := group; at != "/" && at != "."; at = path.Dir(at) {
		if ext := path.Ext(at); ext == ".service" || ext == ".scope" {
			return at
		}
	}
	return ""
}

// delegated tells whether systemd has left the groups below a unit to it: since
// version 251 it says so for everybody to read, before that for root. A unit of
// the system's manager that belongs to this user is another sign.
func delegated(dir, unit string) bool {
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		var value [1]byte
		if n, err := unix.Getxattr(dir, name, value[:]); err == nil && n == 1 && value[0] == '1' {
			return true
		}
	}
	var st unix.Stat_t
	return os.Geteuid() != 0 && !strings.Contains(unit, "/user@") && unix.Stat(dir, &st) == nil && int(st.Uid) == os.Geteuid()
}

// dialManager connects to the manager at its own socket.
func dialManager(ctx context.Context) (*systemd.Conn, error) {
	at := "/run/systemd/private"
	if os.Geteuid() != 0 {
		run := os.Getenv("XDG_RUNTIME_DIR")
		if run == "" {
			run = "/run/user/" + strconv.Itoa(os.Geteuid())
		}
		at = filepath.Join(run, "systemd/private")
	}
	m, err := systemd.NewConnection(func() (*dbus.Conn, error) {
		c, err := dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(at), dbus.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		if err := c.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	})
	if err != nil {
		return nil, &Error{Op: "dial", Path: at, Err: err, Remedy: "the manager of this user must run: loginctl enable-linger"}
	}
	return m, nil
}

func startScope(ctx context.Context, m *systemd.Conn, unit string, pid int) error {
	property := func(name string, value any) systemd.Property {
		return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	result := make(chan string, 1)
	_, err := m.StartTransientUnitContext(ctx, unit, "fail", []systemd.Property{
		systemd.PropDescription("containers of process " + strconv.Itoa(os.Getpid())),
		systemd.PropPids(uint32(pid)),
		property("Delegate", true),
		property("CollectMode", "inactive-or-failed"),
		// Each container has its own limit.
		property("TasksMax", uint64(1<<64-1)),
	}, result)
	if err != nil {
		return err
	}
	select {
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("the job's result is %q", r)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enterScope opens the scope that pid now is in, and moves it into a leaf.
func enterScope(h hierarchy, unit string, pid int) (*Group, error) {
	file := fmt.Sprintf("/proc/%d/cgroup", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &Error{Op: "read", Path: file, Err: err}
	}
	at := strings.TrimSpace(strings.TrimPrefix(string(text), "0::"))
	if path.Base(at) != unit {
		return nil, &Error{Op: "start", Path: unit, Err: fmt.Errorf("process %d is in %s instead", pid, at)}
	}
	g, err := openTop([]hierarchy{h}, func(hierarchy) string { return at })
	if err != nil {
		return nil, err
	}
	// Not by Create, which enables controllers: that needs the process to have left.
	leaf := &Group{t: g.t, rel: hostLeaf, parent: g}
	if err = leaf.make(1 << g.t.unified); err == nil {
		err = leaf.Add(pid)
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}
