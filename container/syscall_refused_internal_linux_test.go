package container

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A record tells of one process at one time, and no program can write another's
// name into it.
func TestAuditedCall(t *testing.T) {
	begun := time.Unix(1795552397, 0)
	record := func(stamp, rest string) []byte {
		return fmt.Appendf(nil, "5,412,111572687,-;audit: type=1326 audit(%s:2): auid=4294967295 uid=0 gid=0 ses=4294967295 pid=%s\n SUBSYSTEM=x\n", stamp, rest)
	}
	const now = "1795552397.915"
	for _, tt := range []struct {
		name   string
		record []byte
		call   string // "": it tells nothing
	}{
		{"a kill", record(now, `9418 comm="k" exe="/tmp/k" sig=31 arch=c000003e syscall=83 compat=0 ip=0x7f code=0x80000000`), "mkdir"},
		{"on arm64", record(now, `9418 comm="k" exe="/tmp/k" sig=31 arch=c00000b7 syscall=34 compat=0`), "mkdirat"},
		{"of x32", record(now, `9418 comm="k" sig=31 arch=c000003e syscall=1073741863 compat=0`), "x32:39"},
		{"of a 32-bit program", record(now, `9418 comm="k" sig=31 arch=40000003 syscall=5 compat=1`), "i386:5"},
		{"of the future", record(now, `9418 comm="k" sig=31 arch=c000003e syscall=1000`), "#1000"},
		{"of an architecture that is not known", record(now, `9418 comm="k" sig=31 arch=8000002a syscall=3`), "arch 8000002a:3"},
		{"another process", record(now, `94180 comm="k" sig=31 arch=c000003e syscall=83`), ""},
		{"an older one of that id", record("1795552396.9", `9418 comm="k" sig=31 arch=c000003e syscall=83`), ""},
		{"logged, not killed", record(now, `9418 comm="k" sig=0 arch=c000003e syscall=83`), ""},
		{"another record", []byte("5,1,1,-;audit: type=1327 audit(" + now + ":2): pid=9418 sig=31 arch=c000003e syscall=83"), ""},
		{"no number", record(now, `9418 sig=31 arch=c000003e syscall=`), ""},
		{"no time", record("x", `9418 sig=31 arch=c000003e syscall=83`), ""},
		{"empty", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			call, ok := auditedCall(tt.record, 9418, begun)
			require.Equal(t, tt.call, call)
			require.Equal(t, tt.call != "", ok)
		})
	}
}
