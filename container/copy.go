package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// What a copy is bounded by. The first two are defaults, for WithMaxBytes and
// WithMaxEntries to change.
const (
	DefaultCopyBytes   int64 = 16 << 30
	DefaultCopyEntries int64 = 1_000_000
	// MaxCopyDepth is how many folders may lie in one another.
	MaxCopyDepth = 256
)

// ErrBudget means that there was more to copy than the copy was allowed to take; the
// error's text says of what.
var ErrBudget = errors.New("over the copy's budget")

// CopyOption is a wish about one copy.
type CopyOption interface{ applyCopy(*copySpec) }

type copySpec struct {
	bytes, entries int64
	faults         faults
}

type copyOption func(*copySpec)

func (o copyOption) applyCopy(s *copySpec) { o(s) }

// WithMaxBytes bounds the data of one copy, in bytes; without it that is
// [DefaultCopyBytes]. Holes of sparse files count for nothing, but in an archive,
// which has them as zeros. n must be above zero; a copy of more ends with an error
// that matches [ErrBudget].
func WithMaxBytes(n int64) CopyOption {
	return copyOption(func(s *copySpec) {
		if s.bytes = n; n <= 0 {
			s.faults.add("WithMaxBytes", fmt.Sprint(n), "not above zero", "")
		}
	})
}

// WithMaxEntries bounds how many files, folders, links and others one copy looks at;
// without it that is [DefaultCopyEntries]. n must be above zero; a copy of more ends
// with an error that matches [ErrBudget].
func WithMaxEntries(n int64) CopyOption {
	return copyOption(func(s *copySpec) {
		if s.entries = n; n <= 0 {
			s.faults.add("WithMaxEntries", fmt.Sprint(n), "not above zero", "")
		}
	})
}

func newCopySpec(opts []CopyOption) (*copySpec, error) {
	s := &copySpec{bytes: DefaultCopyBytes, entries: DefaultCopyEntries}
	for _, o := range opts {
		if o != nil {
			o.applyCopy(s)
		}
	}
	return s, errors.Join(s.faults...)
}

// CopyReport is what a copy did. With an error it is what it did before.
type CopyReport struct {
	// Entries are the files, folders and links that are whole where they belong; a
	// folder that was there already is one.
	Entries int64 `json:"entries"`
	// Bytes are the data of those files.
	Bytes int64 `json:"bytes"`
	// Skipped are the entries that were left out: devices, sockets and FIFOs, what
	// went away or became something else meanwhile, and the kernel's own file
	// systems (/proc, /sys).
	Skipped int64 `json:"skipped"`
	// Left are the first hundred of them.
	Left []SkippedEntry `json:"left,omitempty"`
}

// SkippedEntry is an entry that a copy left out.
type SkippedEntry struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// CopyError says where a copy ended, and what it had done by then. What is not in the
// report is not there: a file that could not be finished is removed, and what it was
// to replace stays.
type CopyError struct {
	Op     string // "CopyOut"
	Path   string // the entry, as it is called where it was copied from; may be empty
	Err    error  // ErrBudget, the kernel's answer, ErrEnded, …
	Report CopyReport
}

// Error says what ended the copy, and the figures.
func (e *CopyError) Error() string {
	what := e.Op
	if e.Path != "" {
		what += " " + oneLine(e.Path)
	}
	return fmt.Sprintf("inlay: %s: %v (copied by then: %d entries, %d bytes)", what, e.Err, e.Report.Entries, e.Report.Bytes)
}

// Unwrap returns the reason: errors.Is(err, syscall.ENOSPC) is a full disk.
func (e *CopyError) Unwrap() error { return e.Err }

// CopyOut copies a file or a folder with all that is in it out of the container, while
// it runs, paused too, and after its main job has ended, until Close. It goes as cp -a
// and docker cp do: where dst is a folder, src is copied into it under its own name,
// else to the name dst, whose folder must be there; src "/dir/." is what is in the
// folder, copied into the folder dst. Folders that are there are merged into, and stay
// as they are; files and links are replaced, each in one step when the new one is
// whole; a folder in the place of a file, and the reverse, is an error.
//
// What is copied belongs to the calling user, with the modes (without set-user-ID and
// set-group-ID) and the times of its last changes that it has in the container. Links
// are copied as links, wherever they lead, src too; none is followed but those on the way
// to src (inside the container; all of it for "/link/.") and in dst (on the host). Hard
// links within src stay such. Sparse files stay sparse. Extended attributes and access lists are not copied,
// and devices, sockets and FIFOs are left out: see [CopyReport]. A file that grows
// meanwhile is copied as far as it was long when its turn came.
//
// The container's jobs may be hostile, and change the tree meanwhile: what is copied was
// in that tree, and readable to the container's init. The host is written to below
// dst alone. A file system that hangs
// when a file is opened holds a copy up until the context ends, one that hangs later, when it is read, as long as it hangs; and until the context ends so may
// a job with init's own id (see [Probe]: id range), or with CAP_KILL. See [WithMaxBytes], [WithMaxEntries] and [MaxCopyDepth] for how much.
//
// An error is a [*CopyError], which says what is there by then; it matches
// context.Cause where the context ended first, ErrNotStarted, ErrClosed or ErrEnded
// where there is no container. An option that is wrong is an [*OptionError].
func (c *Container) CopyOut(ctx context.Context, src, dst string, opts ...CopyOption) (CopyReport, error) {
	return c.copies(ctx, "CopyOut", opts, func(j *copying) error { return j.copyOut(src, dst) })
}

// CopyIn copies a file or a folder of the host with all that is in it into the
// container, by the rules of [Container.CopyOut]. What is copied belongs to the user
// and group of WithUser in New, those of the main job. The host program never has a container's file
// open for writing, so a program that was copied runs at once: it cannot meet ETXTBSY,
// whatever else forks meanwhile.
//
// Links in dst are followed inside the container; below it, nothing is written through
// a link. A file system that is read-only in the container is so for CopyIn (EROFS).
// What it writes to memory file systems counts for their size, and for no limit of the
// container's memory.
func (c *Container) CopyIn(ctx context.Context, src, dst string, opts ...CopyOption) (CopyReport, error) {
	return c.copies(ctx, "CopyIn", opts, func(j *copying) error { return j.copyIn(src, dst) })
}

// TarOut writes a file or a folder of the container as a tar archive, by the rules of
// [Container.CopyOut]: the names in it begin with the last one of src, or, for "/dir/."
// and "/", with those of what is in the folder. Owners are the container's ids, 65534
// for who has none inside. Holes are zeros, and count as bytes. A file that shrinks
// meanwhile is filled with zeros, and is in the report's Left.
//
// A Write that blocks is waited for, whatever the context says.
func (c *Container) TarOut(ctx context.Context, w io.Writer, src string, opts ...CopyOption) (CopyReport, error) {
	return c.copies(ctx, "TarOut", opts, func(j *copying) error { return j.tarOut(w, src) })
}

// TarIn unpacks a tar archive into a folder of the container, by the rules of
// [Container.CopyIn]. The archive may be hostile: names count from dir on, whatever
// they begin with; one with ".." is an error, as is one that leads through a link; links
// are made as they are and can be followed by jobs alone, inside. Owners, set-ID bits and
// devices of the archive are left out, folders that it does not name are made with mode
// 0755. Of two entries with one name the later stays.
//
// It may read more from r than the archive. A Read that blocks is waited for, whatever
// the context says.
func (c *Container) TarIn(ctx context.Context, r io.Reader, dir string, opts ...CopyOption) (CopyReport, error) {
	return c.copies(ctx, "TarIn", opts, func(j *copying) error { return j.tarIn(r, dir) })
}

// copying is one copy under way.
type copying struct {
	ctx    context.Context
	c      *Container
	spec   *copySpec
	report CopyReport
	met    int64  // entries looked at
	taken  int64  // bytes of data set out to be copied
	at     string // the entry that it is at
}

func (c *Container) copies(ctx context.Context, op string, opts []CopyOption, do func(*copying) error) (CopyReport, error) {
	spec, err := newCopySpec(opts)
	if err != nil {
		return CopyReport{}, err
	}
	j := &copying{ctx: ctx, c: c, spec: spec}
	if err = ctx.Err(); err != nil {
		err = context.Cause(ctx)
	} else {
		err = do(j)
	}
	if err != nil {
		return j.report, &CopyError{Op: op, Path: j.at, Err: err, Report: j.report}
	}
	return j.report, nil
}

// entry takes one more entry from the budget.
func (j *copying) entry() error {
	if j.met++; j.met > j.spec.entries {
		return fmt.Errorf("more than %d entries (WithMaxEntries): %w", j.spec.entries, ErrBudget)
	}
	return nil
}

// bytes takes n bytes from the budget.
func (j *copying) bytes(n int64) error {
	if n > j.spec.bytes-j.taken {
		return fmt.Errorf("more than %d bytes (WithMaxBytes): %w", j.spec.bytes, ErrBudget)
	}
	j.taken += n
	return nil
}

// skip notes an entry that is left out.
func (j *copying) skip(name, reason string) {
	j.report.Skipped++
	if len(j.report.Left) < 100 {
		j.report.Left = append(j.report.Left, SkippedEntry{name, reason})
	}
}

// whole notes an entry that is where it belongs.
func (j *copying) whole(bytes int64) {
	j.report.Entries++
	j.report.Bytes += bytes
}

// split takes a path apart: the folder, the last name ("." where there is none), and
// whether only what is in it is meant.
func split(p string) (dir, name string, contents bool) {
	contents = p == "." || strings.HasSuffix(p, "/.")
	p = path.Join("/", p)
	if p == "/" {
		return "/", ".", true
	}
	if contents {
		return p, ".", true
	}
	return path.Dir(p), path.Base(p), false
}
