package container

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

// containerFiles is a container as an opener: a process of it opens what is asked for,
// several names with one message, and with init's rights, so that the host reads no
// file that is closed to the container.
type containerFiles struct {
	ctx     context.Context
	r       *running
	files   *launcher.Files
	sent    []question
	revived int
}

// question was sent, or its answer came out of turn.
type question struct {
	dir      int
	asked    []asked
	answered bool
	replies  []reply
	err      error
}

func (r *running) openSource(ctx context.Context) (*containerFiles, error) {
	files, err := r.init.Files(ctx)
	if err != nil {
		return nil, ended(err)
	}
	return &containerFiles{ctx: ctx, r: r, files: files}, nil
}

// ended says in words for the caller that the container is gone.
func ended(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return ErrEnded
	}
	return err
}

func (s *containerFiles) close() error {
	for _, q := range s.sent {
		closeReplies(q.replies)
	}
	return s.files.Close() // what it was about to send goes with it
}

func (s *containerFiles) ask(dir int, names []asked) error {
	q := question{dir: dir, asked: names}
	err := s.send(q)
	if err != nil && !errors.Is(err, launcher.ErrFilesGone) {
		return err
	}
	s.sent = append(s.sent, q)
	if err != nil {
		return s.revive()
	}
	return nil
}

func (s *containerFiles) send(q question) error {
	regs := &plan.Registers{}
	b := plan.NewSilentBuilder(plan.Exec, launcher.Arch, regs)
	dir := b.Register("folder")
	for _, a := range q.asked {
		resolve := uint64(beneath)
		if !a.mounts {
			resolve |= plan.ResolveNoXDev
		}
		b.Openat2(dir.At(), a.name, a.flags, 0, resolve, "file")
		b.Tolerate(uint32(unix.ENOENT), uint32(unix.ELOOP), uint32(unix.ENXIO), uint32(unix.EXDEV))
	}
	return runPlan(s.ctx, s.files, b, []int{q.dir}, 1, len(q.asked), false)
}

// runPlan sends what was built.
func runPlan(ctx context.Context, files *launcher.Files, b *plan.Builder, fds []int, first, n int, chain bool) error {
	p := b.Plan()
	if sabotage != nil {
		sabotage(p)
	} else {
		defer p.Release()
	}
	return withBuffer(func(buf []byte) ([]byte, error) {
		buf, err := p.AppendEncode(buf, launcher.Arch)
		if err != nil {
			return buf, fmt.Errorf("inlay: bug: %w", err)
		}
		return buf, files.Run(ctx, buf, fds, first, n, chain)
	})
}

// withBuffer lends memory for a plan on its way.
func withBuffer(use func(buf []byte) ([]byte, error)) error {
	mem := encoded.Get().(*[]byte) //nolint:forcetypeassert // the pool's own
	defer encoded.Put(mem)
	buf, err := use((*mem)[:0])
	if cap(buf) <= 1<<20 {
		*mem = buf
	}
	return err
}

func (s *containerFiles) take() ([]reply, error) {
	err := s.answer(0)
	q := s.sent[0]
	s.sent = s.sent[1:]
	if err == nil {
		err = q.err
	}
	if err != nil {
		closeReplies(q.replies)
		return nil, err
	}
	return q.replies, nil
}

// answer gets the answer to a question.
func (s *containerFiles) answer(i int) error {
	q := &s.sent[i]
	if q.answered {
		return nil
	}
	regs, err := s.files.Answer(s.ctx, len(q.asked))
	var failed *launcher.PlanError
	switch {
	case err == nil:
		q.answered, q.replies = true, make([]reply, len(regs))
		for k, r := range regs {
			if q.replies[k] = (reply{fd: int(r)}); r < 0 {
				q.replies[k] = reply{-1, unix.Errno(-r)}
			}
		}
		return nil
	case errors.Is(err, launcher.ErrFilesGone):
		if err := s.revive(); err != nil {
			return err
		}
		return s.answer(i)
	case errors.As(err, &failed) && failed.Phase == rawproc.PhaseExec && len(q.asked) == 1:
		q.answered, q.replies = true, []reply{{-1, failed.Errno}}
		return nil
	case errors.As(err, &failed) && failed.Phase == rawproc.PhaseExec:
		return s.singly(i)
	}
	return err
}

// singly asks again, one by one: an answer to one of them took the others along. What
// was asked after it is answered first.
func (s *containerFiles) singly(i int) error {
	s.sent[i].answered = true // its answer is made up here
	for k := i + 1; k < len(s.sent); k++ {
		if err := s.answer(k); err != nil {
			return err
		}
	}
	for _, a := range s.sent[i].asked {
		if err := s.ask(s.sent[i].dir, []asked{a}); err != nil {
			return err
		}
		last := len(s.sent) - 1
		err := s.answer(last)
		s.sent[i].replies = append(s.sent[i].replies, s.sent[last].replies...)
		s.sent = s.sent[:last]
		if err != nil {
			return err
		}
	}
	return nil
}

// revive makes another process where the one before was killed, as everything is when
// the main job ends, and asks it again what has not been answered.
func (s *containerFiles) revive() error {
	const often = 3
	if s.revived++; s.revived > often {
		return launcher.ErrFilesGone
	}
	err := s.files.Close()
	files, ferr := s.r.init.Files(s.ctx)
	if ferr != nil {
		return errors.Join(err, ended(ferr))
	}
	s.files = files
	for _, q := range s.sent {
		if q.answered {
			continue
		}
		if serr := s.send(q); errors.Is(serr, launcher.ErrFilesGone) {
			return errors.Join(err, s.revive())
		} else if serr != nil {
			return errors.Join(err, serr)
		}
	}
	return err
}

// hostFiles is the host as an opener, with the calling user's rights.
type hostFiles struct{ answers [][]reply }

func (h *hostFiles) ask(dir int, names []asked) error {
	out := make([]reply, len(names))
	for i, a := range names {
		how := &unix.OpenHow{Flags: hostFlags(a.flags), Resolve: beneath}
		if !a.mounts {
			how.Resolve |= unix.RESOLVE_NO_XDEV
		}
		fd, err := retry(func() (int, error) { return unix.Openat2(dir, a.name, how) })
		if err == nil {
			if err = fault.At("open", a.name); err != nil {
				err = errors.Join(err, unix.Close(fd))
				fd = -1
			}
		}
		out[i] = reply{fd, err}
	}
	h.answers = append(h.answers, out)
	return nil
}

func (h *hostFiles) take() ([]reply, error) {
	out := h.answers[0]
	h.answers = h.answers[1:]
	return out, nil
}

func (h *hostFiles) close() error {
	for _, list := range h.answers {
		closeReplies(list)
	}
	return nil
}

func closeReplies(list []reply) {
	for _, f := range list {
		if f.fd >= 0 {
			_ = unix.Close(f.fd) // only read from
		}
	}
}

// hostFlags are a plan's flags in this architecture's numbers.
func hostFlags(f uint64) uint64 {
	out := f &^ (plan.ODIRECTORY | plan.ONOFOLLOW)
	if f&plan.ODIRECTORY != 0 {
		out |= unix.O_DIRECTORY
	}
	if f&plan.ONOFOLLOW != 0 {
		out |= unix.O_NOFOLLOW
	}
	return out
}
