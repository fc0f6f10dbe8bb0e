package prometheus_test

import (
	"fmt"

	client "github.com/prometheus/client_golang/prometheus"

	"github.com/inlay-dev/inlay/prometheus"
)

// A registry of the program's serves what its containers come to.
func ExampleNewCollector() {
	registry := client.NewRegistry()
	registry.MustRegister(prometheus.NewCollector())
	families, err := registry.Gather()
	for _, f := range families {
		if f.GetName() == "inlay_containers_running" {
			fmt.Println(f.GetName())
		}
	}
	fmt.Println(err)
	// Output:
	// inlay_containers_running
	// <nil>
}
