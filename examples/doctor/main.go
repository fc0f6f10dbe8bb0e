// Command doctor prints what this host lets containers do, why not, and what to do
// about it. It exits with 1 where a default container does not start.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/inlay-dev/inlay/container"
)

func main() {
	report, err := container.Probe(context.Background())
	if err == nil {
		_, err = report.WriteTo(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !report.OK() {
		os.Exit(1)
	}
}
