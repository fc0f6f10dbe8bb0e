package container

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/plan"
	"github.com/inlay-dev/inlay/internal/rawproc"
)

// startError says why a job did not begin: the step of its plan that failed and,
// where that is the execve, what is wrong with the command.
func (p *Process) startError(ctx context.Context, r *running, err error) error {
	var e *launcher.PlanError
	if !errors.As(err, &e) || e.Phase != rawproc.PhaseExec {
		return r.planError(err)
	}
	compiled := p.plan
	if compiled == nil {
		compiled = compileJob(&r.c.spec, p.spec, r.host, p.io, plan.NewBuilder)
	}
	out := stepError(compiled, e)
	if e.Step == 0 {
		out.Op, out.Remedy = "vfork", "too many jobs at once (1,024), or the limit of processes is reached"
		if e.Errno == unix.EMFILE {
			out.Op, out.Remedy = "recvmsg", cloneRemedy(e.Errno)
		}
	}
	if limit := p.limitOf(e); limit != nil {
		return limit
	}
	if out.Op == "execve" {
		p.diagnose(ctx, r, out, e.Errno)
	}
	return out
}

// limitOf tells whether a limit of the job's own was what kept it from beginning:
// under one of memory, execve(2) answers ENOMEM, or E2BIG where its arguments did
// not fit; under one of processes, clone3(2) EAGAIN.
func (p *Process) limitOf(e *launcher.PlanError) error {
	if p.group == nil {
		return nil
	}
	s := p.group.Final()
	all := s
	if p.group != p.r.groups.all {
		all = p.r.groups.all.Final()
	}
	switch {
	case (e.Errno == unix.ENOMEM || e.Errno == unix.E2BIG) && (s.Memory.LimitHits > 0 || all.Memory.LimitHits > 0):
		return &LimitError{Option: "WithMemoryLimit", Reason: fmt.Sprintf("too low for the program to begin (%v)", e.Errno), Remedy: "raise it", err: e.Errno}
	case e.Errno == unix.EAGAIN && e.Step == 0 && (s.Pids.LimitHits > 0 || all.Pids.LimitHits > 0):
		return &LimitError{Option: "WithPidsLimit", Reason: "there are as many processes already (resource temporarily unavailable)", Remedy: "raise it", err: e.Errno}
	}
	return nil
}

// finding is what is wrong with a command.
type finding struct {
	path   string
	kind   error // ErrNotFound, ErrNotExecutable
	why    string
	remedy string
}

// diagnose looks at the command inside the container: its every file may be
// hostile, so only the first page of regular files is read.
func (p *Process) diagnose(ctx context.Context, r *running, out *StartError, errno syscall.Errno) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	f := finding{path: p.spec.program(), kind: ErrNotFound, why: "no such file in the container"}
	if !strings.Contains(f.path, "/") {
		f.why = "not in the container's PATH"
	}
	if errno == unix.E2BIG {
		f = finding{path: f.path, kind: ErrNotExecutable, why: "arguments and environment are too large", remedy: "hand large data over by stdin or a file"}
	}
	for _, c := range candidates(p.spec.program(), environment(p.spec)) {
		if !path.IsAbs(c) {
			dir := p.spec.Dir
			if dir == "" {
				dir = "/"
			}
			c = path.Join(dir, c)
		}
		found, ok := inspect(ctx, r.init, c, errno)
		if ok {
			f = found
			break
		}
	}
	if l := r.c.spec.landlock(p.spec); l != nil && errors.Is(errno, unix.EACCES) && f.remedy == "" {
		f.remedy = "WithLandlock holds for the command too: add it, its interpreter and its libraries by security.AllowRead"
	}
	out.Path, out.Remedy = f.path, f.remedy
	out.Err = fmt.Errorf("%w: %s: %w", f.kind, f.why, errno)
}

// inspect tells what keeps one file from being executed; ok is false where there
// is none.
func inspect(ctx context.Context, init *launcher.Init, name string, errno syscall.Errno) (finding, bool) {
	f := finding{path: name, kind: ErrNotExecutable}
	fd, err := init.Open(ctx, name, true)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return f, false
	}
	if err != nil {
		f.why = fmt.Sprintf("cannot be looked at (%v)", err)
		return f, true
	}
	var st unix.Stat_t
	var fs unix.Statfs_t
	err = errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &fs), unix.Close(fd))
	switch {
	case err != nil:
		f.why = err.Error()
		return f, true
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		f.why = "it is a folder"
		return f, true
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		f.why = "it is not a regular file"
		return f, true
	case st.Mode&0o111 == 0:
		f.why, f.remedy = "it has no execute permission", "chmod +x"
		return f, true
	case errors.Is(errno, unix.EACCES) && fs.Flags&unix.ST_NOEXEC != 0:
		f.why, f.remedy = "it lies on a mount with noexec", "mount it without rootfs.NoExec, or elsewhere"
		return f, true
	}
	head, err := firstPage(ctx, init, name)
	if err != nil {
		f.why = errno.Error()
		return f, true
	}
	f.why, f.remedy = unreadableProgram(head, errno)
	return f, true
}

// firstPage reads the beginning of a regular file of the container.
func firstPage(ctx context.Context, init *launcher.Init, name string) ([]byte, error) {
	fd, err := init.Open(ctx, name, false)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(err, unix.EINVAL)
	}
	buf := make([]byte, 4096)
	n, err := unix.Pread(fd, buf, 0)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// unreadableProgram says what of a program's first page keeps it from running.
func unreadableProgram(head []byte, errno syscall.Errno) (why, remedy string) {
	if line, ok := strings.CutPrefix(string(head), "#!"); ok {
		line, _, _ = strings.Cut(line, "\n")
		if strings.HasSuffix(line, "\r") {
			return "its #! line ends in CR LF, so the interpreter's name ends in a carriage return", "convert the file: sed -i 's/\\r$//'"
		}
		interpreter, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if errors.Is(errno, unix.ENOENT) || errors.Is(errno, unix.ENOTDIR) {
			return fmt.Sprintf("its interpreter %s (from #!) is not in the container", shownName(interpreter)), ""
		}
		return fmt.Sprintf("its interpreter %s (from #!) cannot be executed", shownName(interpreter)), ""
	}
	if len(head) < 64 || string(head[:4]) != elf.ELFMAG {
		if len(head) == 0 {
			return "it is empty", ""
		}
		return "it is neither an ELF program nor a script with #!", "begin a script with #!/bin/sh"
	}
	machine := elf.Machine(binary.LittleEndian.Uint16(head[18:]))
	if machine != nativeMachine {
		return fmt.Sprintf("it is for another architecture (%v)", machine), ""
	}
	if name := interpreterOf(head); name != "" && errors.Is(errno, unix.ENOENT) {
		return fmt.Sprintf("its interpreter %s (PT_INTERP) is not in the container", shownName(name)), "link it statically, or use a root that has the interpreter"
	}
	return errno.Error(), ""
}

// shownName is a name out of a file of the container in words for a log or a
// terminal: it may be anything. The kernel ends it at a NUL byte.
func shownName(name string) string {
	name, _, _ = strings.Cut(name, "\x00")
	if name == "" {
		return `""`
	}
	return oneLine(shorten(name))
}

// nativeMachine is what ELF calls this architecture.
var nativeMachine = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]

// interpreterOf reads PT_INTERP of a 64-bit little-endian ELF program whose
// headers and name lie in its first page, as linkers put them.
func interpreterOf(head []byte) string {
	if head[4] != byte(elf.ELFCLASS64) || head[5] != byte(elf.ELFDATA2LSB) {
		return ""
	}
	le := binary.LittleEndian
	off, size, count := le.Uint64(head[32:]), uint64(le.Uint16(head[54:])), uint64(le.Uint16(head[56:]))
	for i := range count {
		at := off + i*size
		if size < 56 || at > uint64(len(head)) || at+56 > uint64(len(head)) {
			return ""
		}
		h := head[at:]
		if elf.ProgType(le.Uint32(h)) != elf.PT_INTERP {
			continue
		}
		from, n := le.Uint64(h[8:]), le.Uint64(h[32:])
		if from > uint64(len(head)) || n > uint64(len(head))-from {
			return ""
		}
		return strings.TrimRight(string(head[from:from+n]), "\x00")
	}
	return ""
}
