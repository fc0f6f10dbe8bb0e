package plan

import "fmt"

// Place is a register for a descriptor that is open for a few steps: whole trees are
// made with one.
func (b *Builder) Place(name string) Reg { return b.regs.New(name) }

// OpenatInto is Openat of a new file, whose descriptor goes where the last one was.
func (b *Builder) OpenatInto(to Reg, dir Dir, path string, flags uint64, mode uint32) {
	s := b.add(callOpenat, func() string {
		return fmt.Sprintf("openat(%s, %q, %s, %#o) = %s", dir, path, names(openFlags, flags), mode, to)
	}, path, dir.arg, b.str(path), Imm(b.oflags(flags)), Imm(mode))
	s.Dst = to.n
}

// sendfileMost is what one sendfile(2) copies: MAX_RW_COUNT, whole pages below 2 GiB.
const sendfileMost = 0x7ffff000

// Sendfile adds sendfile(2) of size bytes from an offset of in: as often as it takes,
// and each time all of it, or the file system is full.
func (b *Builder) Sendfile(out, in Reg, offset, size int64, path string) {
	const enospc = 28
	if b.count == nil {
		r := b.regs.New("count")
		b.count = &r
	}
	for size > 0 {
		n := min(size, sendfileMost)
		at := b.words(uint64(offset))
		s := b.add(callSendfile, func() string { return fmt.Sprintf("sendfile(%s, %s, [%d], %d) = %d", out, in, offset, n, n) }, path,
			out.Arg(), in.Arg(), at, Imm(n))
		s.Dst = b.count.n
		// The kernel has moved the offset, whose place is free.
		b.add(callPoke, func() string { return "poke <count>" }, path, at, b.count.Arg())
		b.check(at.value, ^uint64(0), uint64(n), func() string { return fmt.Sprintf("<count> == %d", n) }, path, enospc)
		offset, size = offset+n, size-n
	}
}

// Mkfifoat adds mknodat(2) of a FIFO.
func (b *Builder) Mkfifoat(dir Dir, path string, mode uint32) {
	const sIFIFO = 0o010000
	b.add(callMknodat, func() string { return fmt.Sprintf("mknodat(%s, %q, S_IFIFO|%#o, 0)", dir, path, mode) }, path,
		dir.arg, b.str(path), Imm(sIFIFO|mode), Imm(0))
}

// Fchownat adds fchownat(2); a link is given away itself.
func (b *Builder) Fchownat(dir Dir, path string, uid, gid uint32) {
	b.add(callFchownat, func() string {
		return fmt.Sprintf("fchownat(%s, %q, %d, %d, AT_SYMLINK_NOFOLLOW)", dir, path, uid, gid)
	}, path, dir.arg, b.str(path), Imm(uid), Imm(gid), Imm(ATNoFollow))
}

// Fchmodat adds fchmodat(2), of what is no link.
func (b *Builder) Fchmodat(dir Dir, path string, mode uint32) {
	b.add(callFchmodat, func() string { return fmt.Sprintf("fchmodat(%s, %q, %#o)", dir, path, mode) }, path, dir.arg, b.str(path), Imm(mode))
}
