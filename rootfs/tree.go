package rootfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Tree is what a root is filled with: names without a slash in front, each after the
// folder that it is in. No name leads through anything but folders.
type Tree struct {
	Entries []TreeEntry
	// Contents are how many bytes of files were written beside it.
	Contents int64
}

// TreeEntry is one name in a Tree.
type TreeEntry struct {
	Path string // "." is the root itself
	// Kind is 'd' for a folder, 'f' a file, 'l' a link to Link, 'h' another name of the
	// file Link, and 'p' a FIFO.
	Kind     byte
	Mode     uint32 // permissions, with the bits of chmod(2)
	UID, GID uint32 // inside
	Link     string
	Offset   int64 // of a file, in what was written beside
	Size     int64
	Sec      int64 // when a file was last changed; 0 and 0: not told
	Nsec     int64
}

// SourceError is what is wrong with what a root is filled from.
type SourceError struct {
	Path   string // the name inside, as far as it is known
	Err    error
	Remedy string // what the reader can do; may be empty
}

// Error says which name it is about, and the remedy where there is one.
func (e *SourceError) Error() string {
	msg := strings.TrimPrefix(fmt.Sprintf("%q: %v", e.Path, e.Err), `"": `)
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// Unwrap returns what was wrong.
func (e *SourceError) Unwrap() error { return e.Err }

// What a SourceError wraps, beside the errors of reading.
var (
	// ErrSourceSize means that it is more than the root may hold.
	ErrSourceSize = errors.New("more than the root may hold")
	// ErrSourceEntry means that there is a name, or a kind of file, that no root can have.
	ErrSourceEntry = errors.New("refused")
)

// Read reads what the root is filled with: the contents of its files, one after the
// other, go to contents, which may be nil. Its errors are the context's, contents' own,
// and *SourceErrors. A root that is not filled has its own folders alone.
func (r Root) Read(ctx context.Context, contents io.Writer) (*Tree, error) {
	if contents == nil {
		contents = io.Discard
	}
	g := &grower{
		ctx: ctx, out: bufio.NewWriterSize(contents, 256<<10), bytes: r.Size, names: r.Inodes,
		root: &node{kind: 'd', mode: 0o755}, patterns: make([]bool, len(r.Executables)), options: r,
	}
	g.root.children = map[string]*node{
		"proc": {kind: 'd', mode: 0o555}, "dev": {kind: 'd', mode: 0o755}, "run": {kind: 'd', mode: 0o755}, "tmp": {kind: 'd', mode: 0o1777},
	}
	g.names -= int64(1 + len(g.root.children))
	var err error
	switch r.Type {
	case "fs":
		err = g.readFS()
	case "tar":
		err = g.readArchive()
	}
	if err != nil {
		return nil, err
	}
	for i, used := range g.patterns {
		if !used {
			return nil, &SourceError{Err: fmt.Errorf("no file matches rootfs.Executable(%q): %w", r.Executables[i], ErrSourceEntry)}
		}
	}
	if err := g.out.Flush(); err != nil {
		return nil, err
	}
	t := &Tree{Contents: g.written}
	g.list(t, g.root, ".")
	return t, nil
}

// node is a file, which may have several names.
type node struct {
	kind         byte
	mode         uint32
	uid, gid     uint32
	link         string
	offset, size int64
	sec, nsec    int64
	children     map[string]*node
	listed       string // the first name that it was listed by
}

// grower collects the tree, within the bounds of the root.
type grower struct {
	ctx      context.Context
	options  Root
	out      *bufio.Writer
	written  int64
	bytes    int64 // left, in whole pages
	names    int64
	steps    int64 // bytes of the plan that makes it
	root     *node
	buf      []byte // of one file at a time
	patterns []bool // which of Executables have matched
}

func refused(name, format string, args ...any) error {
	return &SourceError{Path: name, Err: fmt.Errorf("%w: "+format, append([]any{ErrSourceEntry}, args...)...)}
}

// checkName tells what is wrong with a clean relative name.
func checkName(name string) error {
	if len(name) > 4094 {
		return refused(name[:40]+"…", "a path of %d bytes, at most 4094", len(name))
	}
	for _, c := range strings.Split(name, "/") {
		switch {
		case c == "" || c == "." || c == "..":
			return refused(name, "%q in a path", c)
		case len(c) > 255:
			return refused(name[:40]+"…", "a name of %d bytes, at most 255", len(c))
		case strings.ContainsRune(c, 0):
			return refused(name, "a NUL byte in a name")
		}
	}
	return nil
}

// step is done before each entry.
func (g *grower) step() error { return context.Cause(g.ctx) }

// add puts a file at a clean relative name.
func (g *grower) add(name string, n *node) error {
	if name == "." {
		if n.kind != 'd' {
			return refused(name, "the root must be a folder")
		}
		g.root.take(n)
		return nil
	}
	if err := checkName(name); err != nil {
		return err
	}
	dir, err := g.folder(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	there, ok := dir.children[base]
	switch {
	case !ok:
		if err := g.another(name); err != nil {
			return err
		}
	case there.kind == 'd' && n.kind == 'd':
		there.take(n)
		return nil
	case there.kind == 'd' || n.kind == 'd':
		return refused(name, "it is a folder and something else")
	}
	if dir.children == nil {
		dir.children = map[string]*node{}
	}
	dir.children[base] = n
	return nil
}

// take has a folder look like another.
func (n *node) take(other *node) { n.mode, n.uid, n.gid = other.mode, other.uid, other.gid }

// another takes a new file from the bounds: those of the root, and that of the steps that
// make it, which go to init at once.
func (g *grower) another(name string) error {
	if g.names--; g.names < 0 {
		return tooLarge(name)
	}
	// A file with a time and an owner is seven steps with what they need.
	const most, each = plan.MaxSize - 4<<20, 640
	if g.steps += int64(each + 2*len(name)); g.steps > most {
		return &SourceError{Path: name, Err: ErrSourceSize, Remedy: "more files, or longer paths, than one start makes: keep the tree in a folder, for rootfs.Dir or rootfs.Overlay"}
	}
	return nil
}

func tooLarge(name string) error {
	return &SourceError{Path: name, Err: ErrSourceSize, Remedy: "raise it by rootfs.Size and rootfs.Inodes"}
}

// folder finds a folder, and makes what leads to it.
func (g *grower) folder(name string) (*node, error) {
	dir := g.root
	if name == "." {
		return dir, nil
	}
	for at, rest := 0, name; rest != ""; {
		var base string
		base, rest, _ = strings.Cut(rest, "/")
		at += len(base)
		next, ok := dir.children[base]
		if !ok {
			if err := g.another(name[:at]); err != nil {
				return nil, err
			}
			next = &node{kind: 'd', mode: 0o755}
			if dir.children == nil {
				dir.children = map[string]*node{}
			}
			dir.children[base] = next
		}
		if next.kind != 'd' {
			return nil, refused(name, "%q is no folder", name[:at])
		}
		dir = next
		at++
	}
	return dir, nil
}

const page = 4096

// charge takes the pages of n bytes off the budget.
func (g *grower) charge(name string, n int64) error {
	if n < 0 || n > math.MaxInt64-page {
		return tooLarge(name)
	}
	if g.bytes -= (n + page - 1) &^ (page - 1); g.bytes < 0 {
		return tooLarge(name)
	}
	return nil
}

// contents copies what r gives, to its end, and says in n where it lies. Whatever its
// size was said to be: at most what is left of the root.
func (g *grower) contents(name string, n *node, r io.Reader) error {
	n.offset = g.written
	if g.buf == nil {
		g.buf = make([]byte, 64<<10)
	}
	buf := g.buf
	for idle := 0; ; {
		if err := g.step(); err != nil {
			return err
		}
		got, err := r.Read(buf)
		if got < 0 || got > len(buf) {
			return &SourceError{Path: name, Err: fmt.Errorf("read %d of %d bytes: %w", got, len(buf), ErrSourceEntry)}
		}
		n.size += int64(got)
		if n.size > g.bytes {
			return tooLarge(name)
		}
		if _, werr := g.out.Write(buf[:got]); werr != nil {
			return werr
		}
		g.written += int64(got)
		switch {
		case errors.Is(err, io.EOF):
			return g.charge(name, n.size)
		case err != nil:
			return &SourceError{Path: name, Err: err}
		case got > 0:
			idle = 0
		default:
			if idle++; idle > 100 {
				return &SourceError{Path: name, Err: io.ErrNoProgress}
			}
		}
	}
}

// linkTo adds a link.
func (g *grower) linkTo(name string, n *node) error {
	if n.link == "" || len(n.link) > 4095 || strings.ContainsRune(n.link, 0) {
		return refused(name, "a link to %q", shorten(n.link))
	}
	if len(n.link) > 127 { // longer ones have a page of their own
		if err := g.charge(name, int64(len(n.link))); err != nil {
			return err
		}
	}
	return g.add(name, n)
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// list puts a folder and all in it into the tree, sorted by name.
func (g *grower) list(t *Tree, n *node, name string) {
	e := TreeEntry{Path: name, Kind: n.kind, Mode: n.mode, UID: n.uid, GID: n.gid, Link: n.link, Offset: n.offset, Size: n.size, Sec: n.sec, Nsec: n.nsec}
	if n.listed != "" {
		t.Entries = append(t.Entries, TreeEntry{Path: name, Kind: 'h', Link: n.listed})
		return
	}
	n.listed = name
	t.Entries = append(t.Entries, e)
	names := make([]string, 0, len(n.children))
	for c := range n.children {
		names = append(names, c)
	}
	slices.Sort(names)
	for _, c := range names {
		g.list(t, n.children[c], path.Join(name, c))
	}
}

// errno is the kernel's answer in an error of a source, where there is one.
func errno(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}
