package prometheus_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/prometheus"
)

// scrape asks as a Prometheus server does.
func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close() //nolint:errcheck // it was read
	require.Equal(t, http.StatusOK, res.StatusCode)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	require.NoError(t, err)
	return families
}

// value is a metric's, with the value of its one label; "" without one.
func value(t *testing.T, families map[string]*dto.MetricFamily, name, label string) float64 {
	t.Helper()
	require.Contains(t, families, name)
	for _, m := range families[name].GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		if strings.Join(labels, ",") != label {
			continue
		}
		switch {
		case m.GetCounter() != nil:
			return m.GetCounter().GetValue()
		case m.GetGauge() != nil:
			return m.GetGauge().GetValue()
		}
	}
	require.Fail(t, "no such metric", "%s{%s}", name, label)
	return 0
}

// What a scrape gets over HTTP is what Metrics says, before a container and after.
func TestScrape(t *testing.T) {
	containertest.Require(t, containertest.Containers)
	registry := client.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewCollector())
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	defer server.Close()
	before := scrape(t, server.URL)
	require.Len(t, before, 14)
	require.Len(t, before["inlay_containers_ended_total"].GetMetric(), int(container.Lost)+1)

	res, err := container.Run(t.Context(), container.WithCommand("/bin/sh", "-c", "kill -9 $$"))
	require.NoError(t, err)
	require.Equal(t, container.Signaled, res.Status)
	_, err = container.Run(t.Context(), container.WithCommand("/none/such"))
	require.ErrorIs(t, err, container.ErrNotFound)
	after := scrape(t, server.URL)
	added := func(name, label string) float64 { return value(t, after, name, label) - value(t, before, name, label) }
	require.InDelta(t, 1, added("inlay_containers_started_total", ""), 0)
	require.InDelta(t, 0, added("inlay_containers_running", ""), 0)
	require.InDelta(t, 1, added("inlay_containers_ended_total", "status=signaled"), 0)
	require.InDelta(t, 0, added("inlay_containers_ended_total", "status=exited"), 0)
	require.InDelta(t, 1, added("inlay_containers_failed_total", "phase=exec"), 0)
	require.InDelta(t, res.CPUTime().Seconds(), added("inlay_jobs_cpu_seconds_total", ""), 1e-9)
	require.InDelta(t, res.WallTime.Seconds(), added("inlay_jobs_wall_seconds_total", ""), 1e-9)

	c := container.Metrics()
	for name, want := range map[string]float64{
		"inlay_containers_started_total":   float64(c.Started),
		"inlay_containers_uncleaned_total": float64(c.CleanupFailures),
		"inlay_execs_started_total":        float64(c.Execs),
		"inlay_execs_failed_total":         float64(c.ExecFailures),
		"inlay_jobs_out_of_memory_total":   float64(c.OutOfMemory),
		"inlay_launchers_started_total":    float64(c.Launchers),
		"inlay_launchers_died_total":       float64(c.LauncherDeaths),
	} {
		require.InDelta(t, want, value(t, after, name, ""), 0, name)
	}
	for status, n := range c.ExecEnds {
		require.InDelta(t, float64(n), value(t, after, "inlay_execs_ended_total", "status="+status.String()), 0)
	}
	h := after["inlay_containers_setup_seconds"].GetMetric()[0].GetHistogram()
	require.Equal(t, c.SetupTime.Count, h.GetSampleCount())
	require.InDelta(t, c.SetupTime.Sum.Seconds(), h.GetSampleSum(), 1e-9)
	buckets := h.GetBucket()
	for i, b := range c.SetupTime.Buckets {
		require.InDelta(t, b.UpTo.Seconds(), buckets[i].GetUpperBound(), 0)
		require.Equal(t, b.Count, buckets[i].GetCumulativeCount())
	}
}

// The names and texts are as Prometheus wants them.
func TestNames(t *testing.T) {
	problems, err := testutil.CollectAndLint(prometheus.NewCollector())
	require.NoError(t, err)
	require.Empty(t, problems)
}
