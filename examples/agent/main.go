// Command agent runs a shell script that a model wrote on a copy of a folder, and
// shows what it said and what it changed; -commit has that written to the folder:
//
//	echo 'echo hello >greeting' | go run ./examples/agent -commit FOLDER
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

func main() {
	commit := flag.Bool("commit", false, "write the changes to the folder, if the script succeeds")
	flag.Parse()
	if err := run(context.Background(), flag.Arg(0), os.Stdin, *commit, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, folder string, script io.Reader, commit bool, w io.Writer) (err error) {
	c, err := container.New(
		container.Optional(container.ProfileAgent()), // its limits, where the host has control groups
		container.WithCommand("/bin/sh"), container.WithDir("/work"),
		container.WithMounts(rootfs.Workspace(folder, "/work", rootfs.Staged())),
		container.WithStdin(script), container.WithStdout(w), container.WithStderr(w))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }() // what is not committed is gone
	if err := c.Start(ctx); err != nil {
		return err
	}
	res, err := c.Wait(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintln("=>", res)
	for change, err := range c.Changes() {
		if err != nil {
			return err
		}
		text += fmt.Sprintln(change) // as docker diff: A added, C changed, D removed
	}
	if _, err := io.WriteString(w, text); err != nil || !commit || !res.Success() {
		return err
	}
	return c.Commit(ctx)
}
