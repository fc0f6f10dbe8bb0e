package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// readFS copies a file system.
func (g *grower) readFS() error {
	source, ok := g.options.Source.(fsSource)
	if !ok {
		return errors.New("inlay: bug: no file system")
	}
	return g.readFolder(source.files, ".")
}

// readFolder copies what is in a folder. It is listed in pieces: it may have no end.
func (g *grower) readFolder(files fs.FS, dir string) error {
	list, err := g.entries(files, dir)
	if err != nil {
		return err
	}
	for i, e := range list {
		if err := g.step(); err != nil {
			return err
		}
		name := path.Join(dir, e.Name())
		if i > 0 && list[i-1].Name() == e.Name() {
			return refused(name, "listed twice")
		}
		info, err := e.Info()
		if err == nil && info == nil {
			err = errors.New("no information")
		}
		if err != nil {
			return &SourceError{Path: name, Err: err}
		}
		if err := g.readEntry(files, name, info); err != nil {
			return err
		}
	}
	return nil
}

// entries lists a folder, sorted by name.
func (g *grower) entries(files fs.FS, dir string) ([]fs.DirEntry, error) {
	f, err := open(files, dir)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	reader, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, refused(dir, "a folder that cannot be listed")
	}
	var list []fs.DirEntry
	for {
		if err := g.step(); err != nil {
			return nil, err
		}
		const some = 256
		part, err := reader.ReadDir(some)
		list = append(list, part...)
		switch {
		case int64(len(list)) > g.names:
			return nil, tooLarge(dir)
		case err == nil && len(part) == 0:
			err = io.ErrNoProgress
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, &SourceError{Path: dir, Err: err}
		}
	}
	for _, e := range list {
		if e == nil || strings.Contains(e.Name(), "/") {
			return nil, refused(dir, "an entry that has no name of its own")
		}
		if err := checkName(e.Name()); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

func open(files fs.FS, name string) (fs.File, error) {
	f, err := files.Open(name)
	if err == nil && f == nil {
		err = fmt.Errorf("opened to nothing: %w", ErrSourceEntry)
	}
	if err != nil {
		return nil, &SourceError{Path: name, Err: err}
	}
	return f, nil
}

// readEntry copies one file, folder or link.
func (g *grower) readEntry(files fs.FS, name string, info fs.FileInfo) error {
	n := &node{mode: uint32(info.Mode().Perm())}
	switch mode := info.Mode(); {
	case mode.IsDir():
		n.kind = 'd'
		if n.mode == 0 {
			n.mode = 0o755
		}
		if err := g.add(name, n); err != nil {
			return err
		}
		return g.readFolder(files, name)
	case mode&fs.ModeSymlink != 0:
		links, ok := files.(fs.ReadLinkFS)
		if !ok {
			return refused(name, "a link, of a file system that does not tell where it leads")
		}
		to, err := links.ReadLink(name)
		if err != nil {
			return &SourceError{Path: name, Err: err}
		}
		n.kind, n.link = 'l', to
		return g.linkTo(name, n)
	case !mode.IsRegular():
		return refused(name, "a file of type %v", mode.Type())
	}
	n.kind = 'f'
	if n.mode == 0 {
		n.mode = 0o444
	}
	for i, p := range g.options.Executables {
		if ok, err := path.Match(p, name); ok && err == nil {
			n.mode |= 0o111
			g.patterns[i] = true
		}
	}
	if t := info.ModTime(); !t.IsZero() && t.Unix() > 0 {
		n.sec, n.nsec = t.Unix(), int64(t.Nanosecond())
	}
	if info.Size() > g.bytes { // before anything of it is read
		return tooLarge(name)
	}
	f, err := open(files, name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	st, err := f.Stat()
	if err != nil {
		return &SourceError{Path: name, Err: err}
	}
	if _, disk := f.(*os.File); st.Mode().Type() != info.Mode().Type() || disk && !os.SameFile(info, st) {
		return refused(name, "it became something else meanwhile")
	}
	if err := g.contents(name, n, f); err != nil {
		return err
	}
	return g.add(name, n)
}
