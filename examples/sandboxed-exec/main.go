// Command sandboxed-exec runs five hostile programs as os/exec would, but for one
// word: container.Command in place of exec.Command. It prints how each ended.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/inlay-dev/inlay/container"
)

// hostile are shell lines that somebody could have sent in.
var hostile = []struct{ name, line string }{
	{"reads secrets", "cat /etc/shadow ~/.ssh/id_* /root/*"},
	{"takes all memory", `x=x; while :; do x="$x$x"; done`},
	{"makes processes", "f() { f | f & }; f; wait; sleep 60"},
	{"never ends", "sleep 1000"},
	{"floods the output", "yes"},
}

func main() {
	if err := show(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func show(w io.Writer) error {
	for _, h := range hostile {
		cmd := container.Command("sh", "-c", h.line) // was: exec.Command("sh", "-c", h.line)
		cmd.Options = []container.Option{
			container.Optional(container.WithMemoryLimit(64 * container.MiB)), // where the host has control groups
			container.Optional(container.WithPidsLimit(50)),
			container.WithTimeLimit(3 * time.Second),
			container.WithOutputLimit(container.MiB),
		}
		_, err := cmd.Output()
		var exit *container.ExitError // the program's own doing; all else is ours
		if err != nil && !errors.As(err, &exit) {
			return err
		}
		if _, err := fmt.Fprintf(w, "%-18s %v\n", h.name, cmd.Result); err != nil {
			return err
		}
	}
	return nil
}
