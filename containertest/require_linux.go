package containertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inlay-dev/inlay/container"
)

// Feature is something of the host that a test may need.
type Feature string

// The features that Require knows. Program makes further ones.
const (
	Root       Feature = "root"                 // uid 0
	Rootless   Feature = "an unprivileged user" // any other
	Containers Feature = "containers"           // a default container starts
	Users      Feature = "a range of ids"       // users other than 0 inside
)

const program = "program "

// Program is a command of the host that a test needs.
func Program(name string) Feature { return Feature(program + name) }

// Require skips the test where the host lacks one of the features, and says
// which: "needs root: this is uid 1000".
func Require(t testing.TB, features ...Feature) {
	t.Helper()
	for _, f := range features {
		if err := missing(f); err != nil {
			t.Skipf("needs %s: %v", f, err)
		}
	}
}

func missing(f Feature) error {
	switch f {
	case Root:
		if uid := os.Geteuid(); uid != 0 {
			return fmt.Errorf("this is uid %d", uid)
		}
	case Rootless:
		if os.Geteuid() == 0 {
			return fmt.Errorf("this is root")
		}
	case Containers:
		return starts()
	case Users:
		return startsAsUser()
	default:
		_, err := exec.LookPath(strings.TrimPrefix(string(f), program))
		return err
	}
	return nil
}

var (
	starts       = sync.OnceValue(func() error { return try() })
	startsAsUser = sync.OnceValue(func() error { return try(container.WithUser(1, 1)) })
)

func try(opts ...container.Option) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	res, err := container.Run(ctx, append(opts, container.WithCommand("true"))...)
	if err != nil {
		return err
	}
	return res.Err()
}
