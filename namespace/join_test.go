package namespace

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJoinable(t *testing.T) {
	for _, k := range []Kind{PID, UTS, IPC, Network, User, Time} {
		require.NoError(t, Joinable(k), k)
	}
	require.ErrorContains(t, Joinable(Mount), "of its own")
	require.ErrorContains(t, Joinable(Cgroup), "WithHostNamespace")
	require.ErrorContains(t, Joinable("net"), "no such kind")
}

// The kernel takes nanoseconds from 0 on alone.
func TestTimeOffsets(t *testing.T) {
	for _, tt := range []struct {
		o    TimeOffsets
		text string
	}{
		{TimeOffsets{}, "monotonic 0 0\nboottime 0 0\n"},
		{TimeOffsets{Monotonic: 1500 * time.Millisecond, Boottime: time.Hour}, "monotonic 1 500000000\nboottime 3600 0\n"},
		{TimeOffsets{Monotonic: -1500 * time.Millisecond, Boottime: -time.Second}, "monotonic -2 500000000\nboottime -1 0\n"},
		{TimeOffsets{Monotonic: -1, Boottime: 1}, "monotonic -1 999999999\nboottime 0 1\n"},
	} {
		require.Equal(t, tt.text, tt.o.text())
		require.NoError(t, tt.o.Validate())
	}
	for _, d := range []time.Duration{math.MaxInt64, math.MinInt64, maxOffset + 1, -maxOffset - 1} {
		require.Error(t, TimeOffsets{Monotonic: d}.Validate())
		require.Error(t, TimeOffsets{Boottime: d}.Validate())
	}
	require.NoError(t, TimeOffsets{maxOffset, -maxOffset}.Validate())
}
