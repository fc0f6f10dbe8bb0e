package container

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is in the pipe when the wait for output ends is output: only what might have
// come later is cut.
func TestOutputAtTheDeadline(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, written, want string
		held, cut           bool
	}{
		{name: "all of it", written: "the end", want: "the end"},
		{name: "somebody holds the pipe", written: "the end", want: "the end", held: true, cut: true},
		{name: "nothing", held: true, cut: true},
		{name: "nothing, and closed"},
		{name: "more than is read at once", written: strings.Repeat("x", 60_000), want: strings.Repeat("x", 60_000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// A child that somebody forks meanwhile has the pipe until its execve.
			syscall.ForkLock.RLock()
			defer syscall.ForkLock.RUnlock()
			r, w, err := os.Pipe()
			require.NoError(t, err)
			_, err = w.WriteString(tt.written)
			require.NoError(t, err)
			if tt.held {
				defer w.Close() //nolint:errcheck // nothing to flush
			} else {
				require.NoError(t, w.Close())
			}
			require.NoError(t, r.SetReadDeadline(time.Unix(1, 0)))
			var out strings.Builder
			s := &stream{name: "stdout", out: &out, end: r}
			p := &Process{spec: &Job{}, pending: 2}
			p.copy(s)
			require.Equal(t, tt.want, out.String())
			require.NoError(t, s.err)
			require.Equal(t, tt.cut, s.cut.Load())
		})
	}
}
