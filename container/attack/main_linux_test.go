package attack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The test binary is the attack program in Go: chosen by its first argument.
const attackEnv = "INLAY_ATTACK=1"

// inGo are the attacks in Go. One returns an error that says what held it, or nil
// where it got out, with the detail of that.
var inGo = map[string]func(args []string) (string, error){}

func attackGo(name string, f func(args []string) (string, error)) string {
	if inGo[name] != nil {
		panic("attack " + name + " is there twice")
	}
	inGo[name] = f
	return name
}

// attackGoUnlisted is attackGo for what a test of its own runs.
func attackGoUnlisted(name string, f func(args []string) (string, error)) string {
	attackGo(name, f)
	unlisted = append(unlisted, name)
	return name
}

var unlisted []string

func TestMain(m *testing.M) {
	if os.Getenv("INLAY_ATTACK") != "" && len(os.Args) > 1 {
		f := inGo[os.Args[1]]
		if f == nil {
			fmt.Fprintln(os.Stderr, "no such attack:", os.Args[1])
			os.Exit(125)
		}
		detail, err := f(os.Args[2:])
		if err != nil {
			fmt.Println("CONTAINED:", oneLine(err.Error()))
		} else {
			fmt.Println("ESCAPED:", oneLine(detail))
		}
		os.Exit(0)
	}
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// programs are the two attack programs on this host: one is compiled, by whoever
// copied the sources or else here.
type programs struct {
	c, golang string
	dir       string // where the former was built; "": elsewhere
}

var (
	built    programs
	errBuilt error
	build    sync.Once
)

func attackPrograms(t testing.TB) programs {
	t.Helper()
	build.Do(func() {
		built.golang, errBuilt = os.Executable()
		if errBuilt != nil {
			return
		}
		built.c, errBuilt = filepath.Abs("testdata/attack")
		if errBuilt != nil {
			return
		}
		if _, err := os.Stat(built.c); err == nil {
			return
		}
		built.dir, errBuilt = os.MkdirTemp("", "inlay-attack-bin") //nolint:usetesting // for all tests of the run
		if errBuilt != nil {
			return
		}
		errBuilt = os.Chmod(built.dir, 0o755)
		if errBuilt != nil {
			return
		}
		built.c = filepath.Join(built.dir, "attack")
		var sources []string
		sources, errBuilt = filepath.Glob("testdata/*.c")
		if errBuilt != nil {
			return
		}
		out, err := exec.Command("cc", append([]string{"-O1", "-w", "-static", "-pthread", "-o", built.c}, sources...)...).CombinedOutput()
		if err != nil {
			errBuilt = fmt.Errorf("cc: %w: %s", err, out)
		}
	})
	if errors.Is(errBuilt, exec.ErrNotFound) {
		t.Skip("needs program cc, or testdata/attack compiled by one")
	}
	require.NoError(t, errBuilt)
	return built
}

// errnoOf is the error of a raw system call.
func errnoOf(_, _ uintptr, errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// closing closes a descriptor that an attack got.
func closing(fd int) { _ = unix.Close(fd) }
