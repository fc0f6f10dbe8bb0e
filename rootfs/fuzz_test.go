package rootfs

import (
	"bytes"
	"encoding/json"
	"path"
	"strings"
	"testing"
	"unicode"

	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"
)

// Roots, mounts and files of JSON are refused, or lead to where they say and no
// further up. What /etc tells of the container can be read by all programs, and says
// what it was told.
func FuzzData(f *testing.F) {
	for _, text := range []string{
		`{"type": "host", "etc_names": ["ssl", ".."]}`, `{"type": "host", "etc_names": ["ssl"]}`, `{"type": "dir", "path": "/srv", "writable": true}`, `{"type": "dir", "path": "/srv/../etc"}`,
		`{"type": "bind", "source": "/a", "target": "/b/./c//d/", "read_only": true}`, `{"type": "bind", "source": "a", "target": "/"}`, `{"type": "tmpfs", "target": "/t", "size": 1, "inodes": 2, "mode": 511}`,
		`{"type": "tmpfs", "target": "/..", "size": -1}`, `{"path": "/tmp/x", "data": "AAE=", "mode": 420}`, `{"path": "/x/.", "mode": 1}`, `{"path": "/\u0000"}`,
	} {
		f.Add([]byte(text), "box", uint32(1000), uint32(0))
	}
	f.Add([]byte("{}"), "localhost.x", uint32(65534), uint32(65534))
	f.Fuzz(func(t *testing.T, text []byte, hostname string, uid, gid uint32) {
		inside := func(p string) {
			t.Helper()
			require.True(t, path.IsAbs(p))
			require.NotContains(t, strings.Split(p, "/"), "..")
			require.False(t, strings.ContainsRune(p, 0))
			require.LessOrEqual(t, len(p), 4095)
		}
		same := func(v, back any) {
			t.Helper()
			out, err := json.Marshal(v)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(out, back))
			again, err := json.Marshal(back)
			require.NoError(t, err)
			require.Equal(t, string(out), string(again))
		}
		var r Root
		if json.Unmarshal(text, &r) == nil && r.Validate() == nil {
			if r.Type == "dir" {
				inside(r.Path)
			}
			for _, n := range r.EtcNames {
				require.Equal(t, n, path.Base(path.Join("/etc", n)))
			}
			var back Root
			same(r, &back)
			require.NoError(t, back.Validate())
		}
		var m Mount
		if json.Unmarshal(text, &m) == nil && m.Validate() == nil {
			inside(m.Target)
			require.NotEqual(t, "/", path.Clean(m.Target))
			if m.Type == "bind" {
				inside(m.Source)
			}
			var back Mount
			same(m, &back)
			require.Equal(t, m, back)
		}
		var file File
		if json.Unmarshal(text, &file) == nil && file.Validate() == nil {
			inside(file.Path)
			require.NotContains(t, []string{"", ".", "/"}, path.Base(file.Path))
			var back File
			same(file, &back)
			require.Equal(t, file.Path, back.Path)
		}

		if strings.ContainsFunc(hostname, unicode.IsSpace) {
			return // namespace.ValidateHostname takes none of these
		}
		etc := map[string][]byte{}
		for _, file := range etcFiles(Identity{Hostname: hostname, UID: uid, GID: gid}) {
			require.Contains(t, etcOwn, file.Path)
			etc[file.Path] = file.Data
		}
		require.Len(t, etc, len(etcOwn))
		users, err := user.ParsePasswd(bytes.NewReader(etc["passwd"]))
		require.NoError(t, err)
		groups, err := user.ParseGroup(bytes.NewReader(etc["group"]))
		require.NoError(t, err)
		var uids, gids []int
		for _, u := range users {
			uids = append(uids, u.Uid)
		}
		for _, g := range groups {
			gids = append(gids, g.Gid)
		}
		require.Subset(t, uids, []int{0, 65534, int(uid)})
		require.Subset(t, gids, []int{0, 65534, int(gid)})
		require.LessOrEqual(t, len(users), 3)
		require.Equal(t, hostname+"\n", string(etc["hostname"]))
		if hostname != "" && !strings.HasPrefix(hostname, "localhost") {
			require.Contains(t, strings.Fields(string(etc["hosts"])), hostname)
		}
	})
}
