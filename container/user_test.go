package container

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever passwd and group say, a name is who a line says that is, or nobody; and what
// is asked for in digits is that id.
func FuzzAccounts(f *testing.F) {
	passwd, group := "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:\n", "root:x:0:\nstaff:x:50:alice,bob\n"
	for _, asked := range []string{"alice", "alice:staff", "1000", "1000:staff", "0:0", ":", "-1", "4294967295", "4294967294:4294967294", "alice:", "+1", "a:b:c", "\x00", "x\ny", "0x1"} {
		f.Add(asked, passwd, group)
	}
	for _, text := range []string{"", "\n", ":::::::", "alice:x:one:1:::", "alice:x:99999999999999999999:1:::", "alice:x:4294967295:0:::", "alice:x:5:5\nalice:x:6:6", " alice:x:5:5:::", "alice:x:5:5::\x00:", "alice:x:-5:5:::", "alice:x:5:5::/../x:"} {
		f.Add("alice", text, text)
		f.Add("5:alice", text, text)
	}
	f.Fuzz(func(t *testing.T, asked, passwd, group string) {
		var j Job
		WithUser(asked).applyJob(&j)
		var wrong faults
		j.validate(&wrong)
		if len(wrong) > 0 {
			return
		}
		name, groupName, both := strings.Cut(asked, ":")
		require.NotEmpty(t, name)
		implied, err := accounts{[]byte(passwd), []byte(group)}.lookUp(&j)
		if err != nil {
			return
		}
		require.False(t, j.named())
		check := func(what, name string, id uint32, text string, field int) {
			if n, ok := parseID(name); ok {
				require.Equal(t, n, id, what)
				return
			}
			found := false
			for line := range strings.Lines(text) {
				part := strings.Split(strings.TrimSpace(line), ":")
				found = found || len(part) > field && part[0] == name && strings.TrimLeft(part[field], "0") == strings.TrimLeft(strconv.FormatUint(uint64(id), 10), "0")
			}
			require.True(t, found, "%s %q is %d", what, name, id)
		}
		check("user", name, j.uid(), passwd, 2)
		if both {
			check("group", groupName, j.gid(), group, 2)
			require.Empty(t, implied)
		}
		for _, g := range implied {
			require.LessOrEqual(t, g, uint32(maxID))
		}
		if j.home != "" {
			require.True(t, strings.HasPrefix(j.home, "/"))
			require.NotContains(t, strings.Split(j.home, "/"), "..")
			require.False(t, strings.ContainsAny(j.home, "\x00\n"))
		}
	})
}

func TestUserFaults(t *testing.T) {
	for text, fault := range map[string]string{
		"alice": "", "0": "", "4294967294": "", "user@example.org": "", "名": "", "-": "", "a-b_c.d$": "",
		"": "empty", "4294967295": "not an id", "-1": "not an id", "+1": "not an id", "99999999999999999999": "not an id", "a b": "a space", "a\nb": "control", "a\x00": "control", "a:b": "colon", "a,b": "comma", strings.Repeat("x", 257): "at most 256",
	} {
		require.Equal(t, fault == "", userFault(text) == "", "%q", text)
		require.Contains(t, userFault(text), fault)
	}
	lines := wellFormed([]byte("a:x:1:2\nb:x:1\n:x:1:2\nc:x:1:2:::::\nd:x:1 :2\n e:x:1:2\nf:x::2"), 2, 3)
	require.Equal(t, "a:x:1:2\nc:x:1:2:::::\n", string(lines))
	require.Nil(t, wellFormed(nil, 2))
	require.NotNil(t, wellFormed([]byte{}, 2))
	require.True(t, bytes.Equal(nil, wellFormed([]byte("x"), 2)))
}
