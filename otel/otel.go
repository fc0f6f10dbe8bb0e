// Package otel gives what [container.Metrics] counts to OpenTelemetry. It is a module
// of its own, so that nobody else downloads OpenTelemetry.
//
//	registration, err := otel.Register(provider.Meter("my program"))
//
// The instruments, all of which are read when the SDK collects:
//
//	inlay.containers.started    counter
//	inlay.containers.running    up-down counter
//	inlay.containers.ended      counter, by status: exited, signaled, memory_limit, …
//	inlay.containers.failed     counter of failed starts, by phase: prepare, child, exec, …
//	inlay.containers.setup_time counter, s: what the starts took together
//	inlay.containers.uncleaned  counter: what could not be removed whole
//	inlay.execs.started         counter
//	inlay.execs.ended           counter, by status
//	inlay.execs.failed          counter
//	inlay.jobs.out_of_memory    counter
//	inlay.jobs.cpu_time         counter, s
//	inlay.jobs.wall_time        counter, s
//	inlay.launchers.started     counter
//	inlay.launchers.died        counter
package otel

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/inlay-dev/inlay/container"
)

// Register makes the instruments and has the meter's SDK read them, until the
// registration is undone. The numbers are the whole program's: registering twice with
// one SDK exports them twice. An error is the SDK's own, all of them joined.
func Register(meter metric.Meter) (metric.Registration, error) {
	b := builder{meter: meter}
	b.count("inlay.containers.started", "{container}", "Containers that were started.",
		func(c *container.Counters, put put) { put(c.Started) })
	running, err := meter.Int64ObservableUpDownCounter("inlay.containers.running", metric.WithUnit("{container}"), metric.WithDescription("Containers that have not ended."))
	b.fail(err)
	b.count("inlay.containers.ended", "{container}", "Containers that have ended, by the verdict.",
		func(c *container.Counters, put put) { byStatus(c.Ends, put) })
	b.count("inlay.containers.failed", "{container}", "Containers whose start failed, by the phase.",
		func(c *container.Counters, put put) {
			for phase, n := range c.StartFailures {
				put(n, attribute.String("phase", string(phase)))
			}
		})
	b.seconds("inlay.containers.setup_time", "What the starts took that succeeded.",
		func(c *container.Counters) time.Duration { return c.SetupTime.Sum })
	b.count("inlay.containers.uncleaned", "{failure}", "Times that a container could not be removed whole.",
		func(c *container.Counters, put put) { put(c.CleanupFailures) })
	b.count("inlay.execs.started", "{job}", "Jobs of Exec that have begun.",
		func(c *container.Counters, put put) { put(c.Execs) })
	b.count("inlay.execs.ended", "{job}", "Jobs of Exec that have ended, by the verdict.",
		func(c *container.Counters, put put) { byStatus(c.ExecEnds, put) })
	b.count("inlay.execs.failed", "{job}", "Jobs of Exec that could not begin.",
		func(c *container.Counters, put put) { put(c.ExecFailures) })
	b.count("inlay.jobs.out_of_memory", "{event}", "Times that a job ran out of memory under a limit of its own.",
		func(c *container.Counters, put put) { put(c.OutOfMemory) })
	b.seconds("inlay.jobs.cpu_time", "Processor time of all jobs that have ended.",
		func(c *container.Counters) time.Duration { return c.CPUTime })
	b.seconds("inlay.jobs.wall_time", "How long all jobs that have ended ran.",
		func(c *container.Counters) time.Duration { return c.WallTime })
	b.count("inlay.launchers.started", "{process}", "Launcher processes that were started.",
		func(c *container.Counters, put put) { put(c.Launchers) })
	b.count("inlay.launchers.died", "{process}", "Launcher processes that ended while the program ran.",
		func(c *container.Counters, put put) { put(c.LauncherDeaths) })
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c := container.Metrics()
		o.ObserveInt64(running, c.Running)
		for _, observe := range b.observers {
			observe(&c, o)
		}
		return nil
	}, append(b.instruments, running)...)
}

// put tells one value of an instrument.
type put func(n uint64, attributes ...attribute.KeyValue)

// builder makes instruments.
type builder struct {
	meter       metric.Meter
	instruments []metric.Observable
	observers   []func(*container.Counters, metric.Observer)
	errs        []error
}

func (b *builder) fail(err error) {
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

func (b *builder) count(name, unit, description string, read func(*container.Counters, put)) {
	i, err := b.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	b.fail(err)
	b.instruments = append(b.instruments, i)
	b.observers = append(b.observers, func(c *container.Counters, o metric.Observer) {
		read(c, func(n uint64, attributes ...attribute.KeyValue) {
			o.ObserveInt64(i, int64(n), metric.WithAttributes(attributes...))
		})
	})
}

func (b *builder) seconds(name, description string, read func(*container.Counters) time.Duration) {
	i, err := b.meter.Float64ObservableCounter(name, metric.WithUnit("s"), metric.WithDescription(description))
	b.fail(err)
	b.instruments = append(b.instruments, i)
	b.observers = append(b.observers, func(c *container.Counters, o metric.Observer) { o.ObserveFloat64(i, read(c).Seconds()) })
}

func byStatus(ends map[container.Status]uint64, put put) {
	for status, n := range ends {
		put(n, attribute.String("status", status.String()))
	}
}
