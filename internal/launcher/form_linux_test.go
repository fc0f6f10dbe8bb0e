package launcher

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher/boot"
)

// A launcher that could not get rid of the Go runtime's memory, or was told to keep
// it, serves as well; the ordinary one has nothing of that.
func TestForms(t *testing.T) {
	for _, tt := range []struct {
		name    string
		keep    bool
		cmdline string // its arguments are on the stack of what it was forked from
	}{
		{name: boot.ArgSmall},
		{name: boot.ArgWhole, keep: true, cmdline: boot.Name},
	} {
		t.Run(tt.name, func(t *testing.T) {
			whole.Store(tt.keep)
			defer whole.Store(false)
			l, err := start(t.Context())
			require.NoError(t, err)
			defer func() {
				require.NoError(t, unix.Close(l.sock)) // it ends by itself
				reapChild(l.pid)
				require.NoError(t, unix.Close(l.pidfd))
			}()
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", l.pid))
			require.NoError(t, err)
			arg0, _, _ := strings.Cut(string(text), "\x00")
			require.Equal(t, tt.cmdline, arg0)
			comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.pid))
			require.NoError(t, err)
			require.Equal(t, boot.Name+"\n", string(comm))
		})
	}
}
