package otel_test

import (
	"context"
	"fmt"
	"log"

	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/inlay-dev/inlay/otel"
)

// A program's meter reports what its containers come to.
func ExampleRegister() {
	reader := sdk.NewManualReader()
	registration, err := otel.Register(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("program"))
	if err != nil {
		log.Fatal(err)
	}
	var got metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &got); err != nil {
		log.Fatal(err)
	}
	for _, m := range got.ScopeMetrics[0].Metrics {
		if m.Name == "inlay.containers.running" {
			fmt.Println(m.Name)
		}
	}
	fmt.Println(registration.Unregister())
	// Output:
	// inlay.containers.running
	// <nil>
}
