package containertest_test

import (
	"context"
	"fmt"
	"log"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
)

// What a program has on the machine is counted, and counted again when it should have
// nothing more: here what a container that is not closed has.
func ExampleLeft() {
	ctx := context.Background()
	if _, err := container.Run(ctx, container.WithCommand("true")); err != nil { // the launcher, which stays
		log.Fatal(err)
	}
	c, err := container.New(container.WithCommand("sleep", "1000"))
	if err != nil {
		log.Fatal(err)
	}
	before, err := containertest.Take()
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		log.Fatal(err)
	}
	left, err := containertest.Left(before)
	fmt.Println(len(left) > 0, err)
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	left, err = containertest.Left(before)
	fmt.Println(left, err)
	// Output:
	// true <nil>
	// [] <nil>
}
