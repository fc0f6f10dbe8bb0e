package container

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/inlay-dev/inlay/security"
)

// WithCommand sets the program and its arguments. A name without a slash is
// looked up in the job's PATH, inside the container. Without it the container
// has no main job: it waits for [Container.Exec].
//
// New reports an empty name, a NUL byte, and more than 2 MiB of arguments. Start
// reports what cannot be executed as a [*StartError] that matches ErrNotFound or
// ErrNotExecutable and says why: see execve(2).
func WithCommand(name string, args ...string) JobOption {
	command := append([]string{name}, args...)
	return newJobOption("WithCommand", quoted(command), func(j *Job) { j.Command, j.path = slices.Clone(command), "" })
}

// WithArgs adds arguments to the command.
func WithArgs(args ...string) JobOption {
	args = slices.Clone(args)
	return newJobOption("WithArgs", quoted(args), func(j *Job) { j.Command = append(slices.Clip(j.Command), args...) })
}

// WithEnv adds variables, each "KEY=value"; the later of two for one key wins.
// Nothing of the host program's environment reaches a job: without this option it
// has PATH, HOME, LANG and TERM alone.
func WithEnv(vars ...string) JobOption {
	vars = slices.Clone(vars)
	return newJobOption("WithEnv", quoted(vars), func(j *Job) { j.Env = append(slices.Clip(j.Env), vars...) })
}

// WithDir sets the working folder, an absolute path inside the container. It is
// resolved inside the root and must be there. Without it, it is /.
func WithDir(dir string) JobOption {
	return newJobOption("WithDir", formatted("%q", dir), func(j *Job) {
		j.Dir = dir
		if dir == "" {
			j.faults = append(j.faults, &OptionError{Option: "WithDir", Value: `""`, Reason: "empty path"})
		}
	})
}

// WithUmask sets the file mode creation mask, 0 to 0777; without it, 022.
func WithUmask(mask uint32) JobOption {
	return newJobOption("WithUmask", formatted("%#o", mask), func(j *Job) { j.Umask = &mask })
}

// WithStdin gives the job its standard input. An *os.File goes to the job
// itself; from any other reader a goroutine copies, and may read more than the
// job does. Without it the job reads an empty input. A reader that blocks does
// not hold up Wait.
//
// A pipe is given to the job's user (fchown(2)), so that the job can open
// /dev/stdin; so are those of WithStdout and WithStderr. A regular file is copied
// as well where the job could not open it again (as root, one whose mode does not
// let everybody), and where it could too well: where it has the host user's own id
// alone (see Probe: id range), for writing what it was given to read.
func WithStdin(r io.Reader) JobOption {
	return newJobOption("WithStdin", formatted("%T", r), func(j *Job) { j.Stdin = r })
}

// WithStdout takes the job's standard output. An *os.File goes to the job itself;
// to any other writer a goroutine copies, and Wait returns after its last write.
// A slow writer slows the job down. Without it the output is discarded. The same
// writer for stdout and stderr gets both through one pipe, in their order; it
// must be comparable with ==.
func WithStdout(w io.Writer) JobOption {
	return newJobOption("WithStdout", formatted("%T", w), func(j *Job) { j.Stdout = w })
}

// WithStderr takes the job's standard error, as [WithStdout] does its output.
func WithStderr(w io.Writer) JobOption {
	return newJobOption("WithStderr", formatted("%T", w), func(j *Job) { j.Stderr = w })
}

// absent tells that no reader or writer was given.
func absent(given any) bool {
	f, isFile := given.(*os.File)
	return given == nil || isFile && f == nil
}

// same tells whether both are one writer.
func same(a, b io.Writer) (equal bool) {
	defer func() {
		if recover() != nil {
			equal = false // a type that has no ==, as os/exec treats it
		}
	}()
	return a != nil && a == b
}

// WithExtraFiles gives the job further open files: the first is its descriptor
// 3, and so on. The host program keeps its own; at most 1,000.
//
// An open file is the host's own, with all that can be done to it: through a
// folder the job reaches what lies in it and above it, by openat(2) with "..".
func WithExtraFiles(files ...*os.File) JobOption {
	files = slices.Clone(files)
	return newJobOption("WithExtraFiles", formatted("%d files", len(files)), func(j *Job) {
		j.ExtraFiles = append(slices.Clip(j.ExtraFiles), files...)
	})
}

// WithRlimit sets a limit of setrlimit(2) by its name, as Docker's --ulimit has
// it ("nofile", "fsize"); security.Infinity is none. Without it a job has these,
// soft and hard, or the host program's own hard limit where that is lower:
//
//	core        1, for which no handler is started (core(5); with 0 one is)
//	nofile      1,024, and 65,536 hard: open files
//	nproc       1,024, where no group counts processes, and it counts the container's alone
//	fsize       64 GiB: the size of one file
//	memlock     8 MiB: locked memory
//	msgqueue    819,200 bytes in POSIX message queues
//	sigpending  4,096 queued signals
//	nice        0, and rtprio 0: no higher priority than others
//
// The others are as the host program has them.
//
// New reports names that do not exist and a soft limit above the hard one; Start
// a hard limit above the host program's own.
func WithRlimit(name string, soft, hard uint64) JobOption {
	return newJobOption("WithRlimit", formatted("%q, %d, %d", name, soft, hard), func(j *Job) {
		canonical, err := security.ParseRlimitName(name)
		if err != nil {
			j.faults = append(j.faults, &OptionError{Option: "WithRlimit", Value: fmt.Sprintf("%q", name), Reason: err.Error()})
			return
		}
		kept := slices.DeleteFunc(slices.Clone(j.Rlimits), func(r security.Rlimit) bool { return r.Name == canonical })
		j.Rlimits = append(kept, security.Rlimit{Name: canonical, Soft: soft, Hard: hard})
	})
}

func quoted(list []string) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		if b.Len() > 200 {
			fmt.Fprintf(&b, "… %d more", len(list)-i)
			break
		}
		fmt.Fprintf(&b, "%q", shorten(s))
	}
	return b.String()
}

func shorten(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
