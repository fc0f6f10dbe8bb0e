// Command quickstart shows six namespaces and four limits, each of which bites.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// lines are run one after the other, each in a container of its own.
var lines = []string{
	`for n in uts pid mnt user net ipc; do readlink /proc/self/ns/$n; done; hostname; id -u; echo "process $$"`,
	"dd if=/dev/zero of=/dev/null bs=100000000 count=1", // keeps 100 MB in memory
	"while :; do :; done", // takes a processor
	"i=0; while [ $i -lt 30 ]; do sleep 1 & i=$((i+1)); done; wait", // makes 30 processes
	"dd if=/dev/zero of=/data/file bs=1048576 count=4 oflag=direct", // writes 4 MiB to the disk
}

func main() {
	if err := show(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func show(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("/var/tmp", "inlay-quickstart-") // where a disk is
	if err = errors.Join(err, os.Chmod(dir, 0o777)); err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	for _, line := range lines {
		var out bytes.Buffer
		res, err := container.Run(ctx, container.WithCommand("/bin/sh", "-c", line),
			container.WithNamespaces(namespace.UTS, namespace.PID, namespace.Mount, namespace.User, namespace.Network, namespace.IPC),
			container.WithHostname("box"), container.WithMounts(rootfs.Bind(dir, "/data")),
			container.Optional(container.JobOptions( // where the host cannot keep one, the result says so
				container.WithMemoryLimit(64*container.MiB), container.WithCPULimit(0.5), container.WithPidsLimit(20),
				container.WithIOLimit(cgroup.IOLimit{Device: dir, WriteBPS: 4 * container.MiB}))),
			container.WithTimeLimit(2*time.Second), container.WithStdout(&out), container.WithStderr(&out))
		if err != nil {
			return err
		}
		if _, err = fmt.Fprintf(w, "$ %s\n%s=> %v %v %v\n", line, &out, res, res.Notes, res.Dropped); err != nil {
			return err
		}
	}
	return nil
}
