package otel_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/otel"
)

// values are an instrument's, by its one attribute; "" without one.
type values map[string]float64

func only(set attribute.Set) string {
	for _, a := range set.ToSlice() {
		return string(a.Key) + "=" + a.Value.AsString()
	}
	return ""
}

func collect(t *testing.T, reader sdk.Reader) map[string]values {
	t.Helper()
	var got metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &got))
	out := map[string]values{}
	for _, scope := range got.ScopeMetrics {
		require.Equal(t, "test", scope.Scope.Name)
		for _, m := range scope.Metrics {
			require.NotEmpty(t, m.Description)
			require.NotEmpty(t, m.Unit)
			v := values{}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				require.Equal(t, m.Name != "inlay.containers.running", data.IsMonotonic, m.Name)
				for _, p := range data.DataPoints {
					v[only(p.Attributes)] = float64(p.Value)
				}
			case metricdata.Sum[float64]:
				require.True(t, data.IsMonotonic)
				require.Equal(t, "s", m.Unit)
				for _, p := range data.DataPoints {
					v[only(p.Attributes)] = p.Value
				}
			default:
				require.Fail(t, "another kind of data", "%s: %T", m.Name, data)
			}
			out[m.Name] = v
		}
	}
	return out
}

// What the SDK collects is what Metrics says, before a container and after.
func TestRegister(t *testing.T) {
	containertest.Require(t, containertest.Containers)
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	registration, err := otel.Register(provider.Meter("test"))
	require.NoError(t, err)
	before := collect(t, reader)
	require.Len(t, before, 14)
	require.Len(t, before["inlay.containers.ended"], int(container.Lost)+1)

	res, err := container.Run(t.Context(), container.WithCommand("/bin/sh", "-c", "kill -9 $$"))
	require.NoError(t, err)
	require.Equal(t, container.Signaled, res.Status)
	_, err = container.Run(t.Context(), container.WithCommand("/none/such"))
	require.ErrorIs(t, err, container.ErrNotFound)
	after := collect(t, reader)
	added := func(name, of string) float64 { return after[name][of] - before[name][of] }
	require.InDelta(t, 1, added("inlay.containers.started", ""), 0)
	require.InDelta(t, 0, added("inlay.containers.running", ""), 0)
	require.InDelta(t, 1, added("inlay.containers.ended", "status=signaled"), 0)
	require.InDelta(t, 0, added("inlay.containers.ended", "status=exited"), 0)
	require.InDelta(t, 1, added("inlay.containers.failed", "phase=exec"), 0)
	require.InDelta(t, res.CPUTime().Seconds(), added("inlay.jobs.cpu_time", ""), 1e-9)
	require.InDelta(t, res.WallTime.Seconds(), added("inlay.jobs.wall_time", ""), 1e-9)

	c := container.Metrics()
	for name, want := range map[string]float64{
		"inlay.containers.started":    float64(c.Started),
		"inlay.containers.setup_time": c.SetupTime.Sum.Seconds(),
		"inlay.containers.uncleaned":  float64(c.CleanupFailures),
		"inlay.execs.started":         float64(c.Execs),
		"inlay.execs.failed":          float64(c.ExecFailures),
		"inlay.jobs.out_of_memory":    float64(c.OutOfMemory),
		"inlay.launchers.started":     float64(c.Launchers),
		"inlay.launchers.died":        float64(c.LauncherDeaths),
	} {
		require.Contains(t, after, name)
		require.InDelta(t, want, after[name][""], 1e-9, name)
	}
	for status, n := range c.ExecEnds {
		require.InDelta(t, float64(n), after["inlay.execs.ended"]["status="+status.String()], 0)
	}

	require.NoError(t, registration.Unregister())
	require.Empty(t, collect(t, reader))
	require.NoError(t, provider.Shutdown(context.Background()))
}

// refusing is a meter that makes no counter.
type refusing struct{ noop.Meter }

func (refusing) Int64ObservableCounter(name string, _ ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	return nil, refusal(name)
}

type refusal string

func (r refusal) Error() string { return "no " + string(r) }

// What the SDK says is wrong is said, all of it.
func TestRegisterFails(t *testing.T) {
	_, err := otel.Register(refusing{})
	require.ErrorIs(t, err, refusal("inlay.containers.started"))
	require.ErrorIs(t, err, refusal("inlay.launchers.died"))
}
