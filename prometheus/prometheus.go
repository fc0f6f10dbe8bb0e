// Package prometheus gives what [container.Metrics] counts to Prometheus. It is a
// module of its own, so that nobody else downloads its client.
//
//	registry.MustRegister(prometheus.NewCollector())
//
// The metrics:
//
//	inlay_containers_started_total
//	inlay_containers_running
//	inlay_containers_ended_total{status}    exited, signaled, memory_limit, …
//	inlay_containers_failed_total{phase}    failed starts: prepare, child, exec, …
//	inlay_containers_setup_seconds          histogram of what starts took
//	inlay_containers_uncleaned_total        what could not be removed whole
//	inlay_execs_started_total
//	inlay_execs_ended_total{status}
//	inlay_execs_failed_total
//	inlay_jobs_out_of_memory_total
//	inlay_jobs_cpu_seconds_total
//	inlay_jobs_wall_seconds_total
//	inlay_launchers_started_total
//	inlay_launchers_died_total
package prometheus

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/inlay-dev/inlay/container"
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("inlay_"+name, help, labels, nil)
}

var (
	started    = describe("containers_started_total", "Containers that were started.")
	running    = describe("containers_running", "Containers that have not ended.")
	ended      = describe("containers_ended_total", "Containers that have ended, by the verdict.", "status")
	failed     = describe("containers_failed_total", "Containers whose start failed, by the phase.", "phase")
	setup      = describe("containers_setup_seconds", "What the starts took that succeeded.")
	uncleaned  = describe("containers_uncleaned_total", "Times that a container could not be removed whole.")
	execs      = describe("execs_started_total", "Jobs of Exec that have begun.")
	execsEnded = describe("execs_ended_total", "Jobs of Exec that have ended, by the verdict.", "status")
	execsFail  = describe("execs_failed_total", "Jobs of Exec that could not begin.")
	memory     = describe("jobs_out_of_memory_total", "Times that a job ran out of memory under a limit of its own.")
	cpuTime    = describe("jobs_cpu_seconds_total", "Processor time of all jobs that have ended.")
	wallTime   = describe("jobs_wall_seconds_total", "How long all jobs that have ended ran.")
	launchers  = describe("launchers_started_total", "Launcher processes that were started.")
	deaths     = describe("launchers_died_total", "Launcher processes that ended while the program ran.")
)

type collector struct{}

// NewCollector returns what a registry reads the counters of the whole program by:
// register one. It is for concurrent use.
func NewCollector() prometheus.Collector { return collector{} }

// Describe sends the metrics' descriptions.
func (collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{started, running, ended, failed, setup, uncleaned, execs, execsEnded, execsFail, memory, cpuTime, wallTime, launchers, deaths} {
		to <- d
	}
}

// Collect sends the metrics.
func (collector) Collect(to chan<- prometheus.Metric) {
	c := container.Metrics()
	count := func(d *prometheus.Desc, n float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, n, labels...)
	}
	count(started, float64(c.Started))
	to <- prometheus.MustNewConstMetric(running, prometheus.GaugeValue, float64(c.Running))
	for status, n := range c.Ends {
		count(ended, float64(n), status.String())
	}
	for phase, n := range c.StartFailures {
		count(failed, float64(n), string(phase))
	}
	buckets := map[float64]uint64{}
	for _, b := range c.SetupTime.Buckets {
		buckets[b.UpTo.Seconds()] = b.Count
	}
	to <- prometheus.MustNewConstHistogram(setup, c.SetupTime.Count, c.SetupTime.Sum.Seconds(), buckets)
	count(uncleaned, float64(c.CleanupFailures))
	count(execs, float64(c.Execs))
	for status, n := range c.ExecEnds {
		count(execsEnded, float64(n), status.String())
	}
	count(execsFail, float64(c.ExecFailures))
	count(memory, float64(c.OutOfMemory))
	count(cpuTime, c.CPUTime.Seconds())
	count(wallTime, c.WallTime.Seconds())
	count(launchers, float64(c.Launchers))
	count(deaths, float64(c.LauncherDeaths))
}
