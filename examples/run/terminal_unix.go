//go:build unix

package main

import (
	"os"
	"syscall"

	"github.com/containerd/console"
)

// resized is how a program hears that its terminal has another size.
var resized = []os.Signal{syscall.SIGWINCH}

// clearONLCR has lines go to the terminal as they are.
func clearONLCR(fd uintptr) error { return console.ClearONLCR(fd) }
