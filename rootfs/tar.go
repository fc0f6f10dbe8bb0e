package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"

	"github.com/inlay-dev/inlay/internal/fault"
)

// readArchive unpacks the archive of a "tar".
func (g *grower) readArchive() error {
	if s, ok := g.options.Source.(tarSource); ok {
		return g.readTar(io.NewSectionReader(s.archive, 0, math.MaxInt64))
	}
	name := g.options.Path
	err := fault.At("open", name)
	var st os.FileInfo
	if err == nil {
		st, err = os.Stat(name) // first: to open a FIFO would wait
	}
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("not a regular file: %w", ErrSourceEntry)
	}
	if err != nil {
		return &SourceError{Err: errno(err), Remedy: "rootfs.Tar needs an archive that is there: " + name}
	}
	f, err := os.Open(name)
	if err != nil {
		return &SourceError{Err: errno(err), Remedy: "rootfs.Tar needs an archive that this program may read: " + name}
	}
	return errors.Join(g.readTar(f), f.Close())
}

// compressed are what an archive may begin with that is not read here.
var compressed = []struct {
	magic []byte
	by    string
}{
	{[]byte("\x28\xb5\x2f\xfd"), "zstd"},
	{[]byte("\xfd7zXZ\x00"), "xz"},
	{[]byte("BZh"), "bzip2"},
	{[]byte("\x04\x22\x4d\x18"), "lz4"},
	{[]byte("\x5d\x00\x00"), "lzma"},
	{[]byte("PK\x03\x04"), "zip"},
}

// readTar unpacks an archive, compressed or not.
func (g *grower) readTar(r io.Reader) error {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(6)
	if len(head) == 0 {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("an empty archive: %w", ErrSourceEntry)
		}
		return &SourceError{Err: err}
	}
	for _, c := range compressed {
		if bytes.HasPrefix(head, c.magic) {
			return &SourceError{Err: fmt.Errorf("compressed by %s: %w", c.by, errors.ErrUnsupported), Remedy: "decompress it, or use gzip"}
		}
	}
	// What an archive of so many names and bytes can have, with headers and padding.
	plain := &bounded{left: g.bytes + 8<<10*g.names + 64<<20}
	if plain.left < 0 {
		plain.left = math.MaxInt64
	}
	plain.r = in
	if bytes.HasPrefix(head, []byte("\x1f\x8b")) {
		zip, err := gzip.NewReader(in)
		if err != nil {
			return &SourceError{Err: err}
		}
		plain.r = zip
	}
	archive := tar.NewReader(plain)
	for seen := false; ; seen = true {
		if err := g.step(); err != nil {
			return err
		}
		h, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF) && !seen:
			return &SourceError{Err: fmt.Errorf("an empty archive: %w", ErrSourceEntry)}
		case errors.Is(err, io.EOF):
			// To its end: a checksum comes last.
			if _, err := io.Copy(io.Discard, plain); err != nil {
				return &SourceError{Err: err}
			}
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return &SourceError{Err: fmt.Errorf("no tar archive, or one that was cut: %w", err)}
		case err != nil && !errors.Is(err, tar.ErrInsecurePath):
			return &SourceError{Err: err}
		}
		if err := g.readHeader(archive, h); err != nil {
			return err
		}
	}
}

// bounded ends with an error, not with an end, where there is more: what a bomb
// unpacks to.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, tooLarge("")
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// memberName is a name of the archive as one below the root.
func memberName(name string) (string, error) {
	for _, c := range strings.Split(name, "/") {
		if c == ".." {
			return "", refused(shorten(name), "\"..\" in a path")
		}
	}
	if strings.ContainsRune(name, 0) {
		return "", refused(shorten(name), "a NUL byte in a name")
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}

// readHeader takes one member.
func (g *grower) readHeader(archive *tar.Reader, h *tar.Header) error {
	const global = tar.TypeXGlobalHeader
	if h.Typeflag == global {
		return nil // git archive's, of no file
	}
	name, err := memberName(h.Name)
	if err != nil {
		return err
	}
	n := &node{mode: uint32(h.Mode) & 0o7777}
	if !g.options.OwnedByRoot {
		if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
			return refused(name, "owner %d:%d", h.Uid, h.Gid)
		}
		n.uid, n.gid = uint32(h.Uid), uint32(h.Gid)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		n.kind = 'd'
		return g.add(name, n)
	case tar.TypeSymlink:
		n.kind, n.link = 'l', h.Linkname
		return g.linkTo(name, n)
	case tar.TypeFifo:
		n.kind = 'p'
		return g.add(name, n)
	case tar.TypeLink:
		return g.hardLink(name, h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		if strings.HasPrefix(name, "dev/") {
			return nil
		}
		return &SourceError{Path: name, Err: fmt.Errorf("%w: a device node", ErrSourceEntry), Remedy: "container.WithDevice shows the host's"}
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
	default:
		return refused(name, "a member of type %q", h.Typeflag)
	}
	n.kind = 'f'
	if t := h.ModTime; t.Unix() > 0 {
		n.sec, n.nsec = t.Unix(), int64(t.Nanosecond())
	}
	if h.Size > g.bytes { // holes count as well, and take as long
		return tooLarge(name)
	}
	if err := g.contents(name, n, archive); err != nil {
		return err
	}
	return g.add(name, n)
}

// hardLink gives a file of the archive another name.
func (g *grower) hardLink(name, to string) error {
	to, err := memberName(to)
	if err != nil {
		return err
	}
	if to == name {
		return refused(name, "a hard link to itself")
	}
	if to == "." {
		return refused(name, "a hard link to a folder")
	}
	at := g.root
	for _, base := range strings.Split(to, "/") {
		next, ok := at.children[base]
		if !ok {
			return refused(name, "a hard link to %q, which is not in the archive before it", shorten(to))
		}
		at = next
	}
	if at.kind == 'd' {
		return refused(name, "a hard link to a folder")
	}
	return g.add(name, at)
}
