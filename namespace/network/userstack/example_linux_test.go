package userstack_test

import (
	"context"
	"fmt"
	"log"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace/network"
	"github.com/inlay-dev/inlay/namespace/network/userstack"
)

// A user's container has a way out without pasta, or with it there.
func ExamplePrefer() { //nolint:testableexamples // of users, and who runs it as root has links on the host
	userstack.Prefer()
	res, err := container.Run(context.Background(),
		container.WithCommand("curl", "-s", "http://192.0.2.2:7000/"),
		container.WithNetwork(network.Bridge("")),
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res)
}
