package attack

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// anyOf tries an attack's ways one after the other, until one leads out. Else its
// error says how many met what.
func anyOf[T any](ways []T, try func(T) (string, error)) (string, error) {
	met := map[string]int{}
	for _, w := range ways {
		detail, err := try(w)
		if err == nil {
			return fmt.Sprintf("%v: %s", w, detail), nil
		}
		met[answer(err)]++
	}
	if len(met) == 0 {
		return "", errors.New("no way to try")
	}
	var b strings.Builder
	for _, m := range slices.Sorted(maps.Keys(met)) {
		fmt.Fprintf(&b, "%s %d times, ", m, met[m])
	}
	return "", errors.New(strings.TrimSuffix(b.String(), ", "))
}

// answer is what a way met: the kernel's error where there is one.
func answer(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// way is one that is no path or number.
type way struct {
	name string
	try  func() error
}

func (w way) String() string { return w.name }

// anyWay is anyOf for those.
func anyWay(ways ...way) (string, error) {
	return anyOf(ways, func(w way) (string, error) { return "done", w.try() })
}

var (
	errOther = errors.New("not the host's")
	errEmpty = errors.New("empty")
)

// secretIn reads the beginning of a file, which is the host's if it has the
// secret. It waits for nothing.
func secretIn(path, secret string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer closing(fd)
	return secretAt(fd, secret)
}

func secretAt(fd int, secret string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return "", err
	}
	if !bytes.Contains(buf[:n], []byte(secret)) {
		return "", errOther
	}
	return "read the secret", nil
}

// opens tells whether a file can be opened so, and leaves it as it is.
func opens(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == nil {
		closing(fd)
	}
	return err
}

// fromRoot is a path that begins so high that any root is reached.
func fromRoot(path string) string { return strings.Repeat("../", 40) + strings.TrimPrefix(path, "/") }

// processes are the folders of all processes in /proc that can be seen, and
// those by which a process finds its own.
func processes() []string {
	out := []string{"/proc/self", "/proc/thread-self"}
	for _, pid := range pids() {
		out = append(out, fmt.Sprintf("/proc/%d", pid))
	}
	return out
}

func pids() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// mountLine is what one line of mountinfo tells, proc_pid_mountinfo(5).
type mountLine struct{ dev, root, at, kind, source string }

func mountLines() []mountLine {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []mountLine
	for _, l := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		before, after, _ := strings.Cut(l, " - ")
		f, k := strings.Fields(before), strings.Fields(after)
		if len(f) >= 6 && len(k) >= 2 {
			out = append(out, mountLine{dev: f[2], root: f[3], at: unescape(f[4]), kind: k[0], source: k[1]})
		}
	}
	return out
}

// unescape undoes what the kernel writes for spaces and the like in a path.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// inTemp gives a new folder to write to, which is removed.
func inTemp(f func(dir string) (string, error)) (string, error) {
	dir, err := os.MkdirTemp("", "attack")
	if err != nil {
		return "", err
	}
	detail, err := f(dir)
	if e := os.RemoveAll(dir); e != nil {
		err = errors.Join(err, e)
	}
	return detail, err
}

// below are all names below a folder that can be seen, no link followed, in their
// order, folders first.
func below(dir string, each func(path string, folder bool) (string, error)) (string, error) {
	var detail string
	met := map[string]int{}
	stop := errors.New("out")
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return nil //nolint:nilerr // what cannot be listed is of no use
		}
		text, err := each(path, d.IsDir())
		if err != nil {
			met[answer(err)]++
			return nil
		}
		detail = path + ": " + text
		return stop
	})
	if errors.Is(err, stop) {
		return detail, nil
	}
	return "", fmt.Errorf("%s: %v %w", dir, met, errOther)
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
