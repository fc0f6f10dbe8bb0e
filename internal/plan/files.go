package plan

import "fmt"

// kept is the descriptor that the process for files keeps from one plan to the next;
// internal/rawproc has the same number. Its socket has the one before, and a copy of
// it stands in for what is not there.
const (
	kept       = 4
	keptSocket = 3
)

// Kept is the descriptor of [Builder.Keep], of this plan or one before.
var Kept = Dir{arg: Imm(kept)}

// Keep keeps a descriptor for the plans that follow.
func (b *Builder) Keep(fd Reg) { b.Dup3(fd, kept, OCLOEXEC) }

// CloseKept closes what was kept: some file systems tell of an error only then. Its
// number is not free in between, nor after an error.
func (b *Builder) CloseKept() {
	const dupfdCloexec = 1030
	fd := b.result(b.add(callFcntl, func() string { return "fcntl(<kept>, F_DUPFD_CLOEXEC, 5)" }, "", Imm(kept), Imm(dupfdCloexec), Imm(kept+1)), "last")
	b.DropKept()
	b.Close(fd)
}

// DropKept closes what was kept, if anything was.
func (b *Builder) DropKept() {
	b.add(callDup3, func() string { return fmt.Sprintf("dup3(%d, %d, O_CLOEXEC)", keptSocket, kept) }, "", Imm(keptSocket), Imm(kept), Imm(OCLOEXEC))
}

// Copy copies n bytes of a file into another within the kernel, each from an offset of
// its own, less where the first one ends: copy_file_range(2), else sendfile(2).
func (b *Builder) Copy(in Reg, inAt int64, out Dir, outAt, n int64, path string) {
	b.add(callCopy, func() string { return fmt.Sprintf("copy(%s, %d, %s, %d, %d)", in, inAt, out, outAt, n) }, path,
		in.Arg(), Imm(inAt), out.arg, Imm(outAt), Imm(n))
}

// Linkat adds linkat(2); a link is linked to itself, not to where it leads.
func (b *Builder) Linkat(from Dir, old string, to Dir, path string) {
	b.add(callLinkat, func() string { return fmt.Sprintf("linkat(%s, %q, %s, %q, 0)", from, old, to, path) }, path,
		from.arg, b.str(old), to.arg, b.str(path), Imm(0))
}

// Renameat adds renameat2(2) within one folder.
func (b *Builder) Renameat(dir Dir, old, path string) {
	b.add(callRenameat2, func() string { return fmt.Sprintf("renameat2(%s, %q, %s, %q, 0)", dir, old, dir, path) }, path,
		dir.arg, b.str(old), dir.arg, b.str(path), Imm(0))
}

// Futimens adds utimensat(2) on a descriptor: the time of its last change, in seconds
// and nanoseconds.
func (b *Builder) Futimens(fd Dir, sec, nsec int64, path string) {
	const utimeOmit = 0x3ffffffe
	b.add(callUtimensat, func() string {
		return fmt.Sprintf("utimensat(%s, NULL, [UTIME_OMIT, {%d, %d}], 0)", fd, sec, nsec)
	}, path, fd.arg, Imm(0), b.words(0, utimeOmit, uint64(sec), uint64(nsec)), Imm(0))
}

// Ftruncate adds ftruncate(2).
func (b *Builder) Ftruncate(fd Dir, size int64, path string) {
	b.add(callFtruncate, func() string { return fmt.Sprintf("ftruncate(%s, %d)", fd, size) }, path, fd.arg, Imm(size))
}
