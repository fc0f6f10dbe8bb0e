package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// knowsAccounts tells that the container's passwd and group are of inlay's own making,
// so that nobody has to be asked.
func (r *running) knowsAccounts() bool {
	s := r.spec
	root := s.root()
	return root.Type == "host" && !slices.ContainsFunc(s.Mounts, func(m rootfs.Mount) bool {
		at := path.Clean(m.Target)
		return at == "/etc" || at == "/etc/passwd" || at == "/etc/group"
	})
}

// settleAhead looks the main job's user up where that needs no container.
func (r *running) settleAhead() (*Spec, error) {
	if !r.spec.Job.named() || !r.knowsAccounts() {
		return r.spec, nil
	}
	passwd, group := rootfs.Identity{}.Accounts()
	s := *r.spec
	s.Job = s.Job.clone()
	if _, err := (accounts{[]byte(passwd), []byte(group)}).lookUp(&s.Job); err != nil {
		return nil, accountError(err)
	}
	s.Job.home = "" // no folder of these is there but /tmp
	r.spec = &s
	return r.spec, nil
}

// settleMain looks the main job's user up in the container, where that is needed.
func (r *running) settleMain(ctx context.Context) error {
	if r.knowsAccounts() || !r.spec.Job.named() && !r.spec.Job.wantsHome() {
		return nil
	}
	s := *r.spec
	s.Job = s.Job.clone()
	named := s.Job.named()
	if err := r.settle(ctx, &s.Job); err != nil {
		return err
	}
	r.spec = &s
	r.main.spec = &s.Job
	if named {
		return errors.Join(checkBinds(&s, r.host), checkDevices(&s, r.host))
	}
	return nil
}

// wantsHome tells that the job has not been given a HOME, and a user who may have one:
// nobody pays for looking it up who has not chosen a user.
func (j *Job) wantsHome() bool {
	return (j.UID != nil || j.User != "") && !j.wholeEnv && !slices.ContainsFunc(j.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") })
}

// settle looks a job's user up in the container, and whether this host has its ids.
func (r *running) settle(ctx context.Context, j *Job) error {
	named := j.named()
	if named || !r.knowsAccounts() && j.wantsHome() {
		if err := r.lookUp(ctx, j); named && err != nil {
			return err
		}
	}
	return r.checkUser(r.host, j)
}

func (r *running) lookUp(ctx context.Context, j *Job) error {
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	var a accounts
	var err error
	if a.passwd, err = r.readAccounts(ctx, "/etc/passwd"); err != nil {
		return err
	}
	if j.named() {
		if a.group, err = r.readAccounts(ctx, "/etc/group"); err != nil {
			return err
		}
	}
	implied, err := a.lookUp(j)
	if err != nil {
		return accountError(err)
	}
	if len(implied) > maxImplied {
		return accountError(fmt.Errorf("the user is in %d groups, at most %d: %w", len(implied), maxImplied, unix.EINVAL))
	}
	for _, g := range implied {
		if r.host.initUID != 0 && g == r.host.initGID {
			continue // nobody but init is in it
		}
		if _, mapped := namespace.ToHost(r.host.gids, g); !r.host.setgroups || len(r.host.gids) > 0 && !mapped {
			r.drop("WithUser", "not all supplementary groups that /etc/group has for the user: this host does not map them, or lets nobody set them")
			continue
		}
		j.addGroup(g)
	}
	if !j.wantsHome() || j.home == "" {
		j.home = ""
		return nil
	}
	if there, err := r.isFolder(ctx, j.home); err != nil || !there {
		j.home = "" // as without one
	}
	return nil
}

// maxImplied is how many groups a name brings along: a job may have written the file.
const maxImplied = 1024

func accountError(err error) error {
	out := &StartError{Phase: PhasePrepare, Op: "WithUser", Path: "/etc/passwd", Err: err, Remedy: "the container's own file is looked into: give an id"}
	var missing *noAccountError
	if errors.As(err, &missing) {
		out.Path, out.Remedy = missing.file, "the container's own file is looked into, not the host's: give an id, or a root that has the name"
	}
	return out
}

// readAccounts reads one of the files, as far as it may be; nil: it is not there.
func (r *running) readAccounts(ctx context.Context, name string) (text []byte, err error) {
	fd, info, err := openFile(ctx, r, name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, nil
	case errors.Is(err, unix.ESRCH):
		return nil, r.gone(ctx)
	case err == nil:
		f := os.NewFile(uintptr(fd), name)
		defer f.Close() //nolint:errcheck // only read from
		if info.IsDir() {
			err = unix.EISDIR
			break
		}
		text, err = io.ReadAll(io.LimitReader(f, maxAccounts+1)) // whatever its size is said to be
		if len(text) > maxAccounts {
			err = fmt.Errorf("more than %d bytes: %w", maxAccounts, unix.EFBIG)
		}
	}
	if err != nil {
		return nil, &StartError{Phase: PhasePrepare, Op: "WithUser", Path: name, Err: err, Remedy: "names are looked up in the container's own file, a regular one of at most 1 MiB: give ids"}
	}
	return text, nil
}

// gone is why init does not answer any more.
func (r *running) gone(ctx context.Context) error {
	// What it said last, if that is not read yet, is on its way.
	if err := r.init.Ready(ctx); err != nil && r.plans != nil {
		return r.planError(err) // the start did not get so far
	}
	return ErrEnded
}
