package namespace

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"
)

// Id maps are refused, or the kernel's text of them says the same, no id of the
// host stands for two, and both directions agree. A hostname that is taken is a word
// that breaks no file of /etc; a kind that is parsed is one.
func FuzzIDMaps(f *testing.F) {
	line := func(list ...uint32) (b []byte) {
		for _, n := range list {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		return b
	}
	for _, b := range [][]byte{
		nil, line(0, 524288, 65536), line(0, 1000, 1, 1, 100000, 65535), line(0, 0, 0), line(0, 5, 10, 5, 50, 10), line(0, 5, 10, 10, 14, 10),
		line(4294967294, 0, 1), line(4294967295, 0, 1), line(0, 4294967290, 6), line(0, 0, 4294967295), line(1, 1, 4294967295),
	} {
		f.Add(b, uint32(0), "box-1.x")
	}
	f.Add(line(0, 0, 1), uint32(7), "net")
	f.Add(line(0, 0, 1), uint32(7), "a\n127.0.0.1 b")
	f.Fuzz(func(t *testing.T, raw []byte, id uint32, name string) {
		if ValidateHostname(name) == nil {
			require.LessOrEqual(t, len(name), 64)
			require.Equal(t, []string{name}, strings.Fields(name))
			require.Empty(t, strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"))
		}
		if k, err := Parse(name); err == nil {
			require.True(t, k.Valid())
			require.NotZero(t, k.CloneFlag())
			again, err := Parse(k.File())
			require.NoError(t, err)
			require.Equal(t, k, again)
		}

		var maps []IDMap
		for ; len(raw) >= 12; raw = raw[12:] {
			maps = append(maps, IDMap{binary.LittleEndian.Uint32(raw), binary.LittleEndian.Uint32(raw[4:]), binary.LittleEndian.Uint32(raw[8:])})
		}
		if ValidateIDMaps(maps) != nil {
			return
		}
		read, err := user.ParseIDMap(strings.NewReader(text(maps)))
		require.NoError(t, err)
		require.Len(t, read, len(maps))
		seen := map[uint32]uint32{}
		for i, m := range maps {
			require.Equal(t, user.IDMap{ID: int64(m.ContainerID), ParentID: int64(m.HostID), Count: int64(m.Size)}, read[i])
			for _, inside := range []uint32{m.ContainerID, m.ContainerID + m.Size/2, m.ContainerID + m.Size - 1} {
				require.NotEqual(t, ^uint32(0), inside, "what is no id")
				host, ok := ToHost(maps, inside)
				require.True(t, ok)
				require.True(t, Mapped(maps, host))
				if other, twice := seen[host]; twice {
					require.Equal(t, other, inside, "one id of the host stands for two")
				}
				seen[host] = inside
			}
		}
		for _, m := range maps {
			for _, n := range []uint32{id, m.ContainerID - 1, m.ContainerID + m.Size, m.HostID - 1, m.HostID + m.Size} {
				host, ok := ToHost(maps, n)
				in, there := false, false
				for _, o := range read {
					in = in || int64(n) >= o.ID && int64(n) < o.ID+o.Count
					there = there || int64(n) >= o.ParentID && int64(n) < o.ParentID+o.Count
				}
				require.Equal(t, in, ok, "%d", n)
				require.Equal(t, there, Mapped(maps, n), "%d", n)
				require.True(t, !ok || Mapped(maps, host))
			}
		}
	})
}
