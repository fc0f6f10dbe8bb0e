//go:build amd64 || arm64

package rawproc

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// look goes through a text as if it was /proc/self/maps, and unmaps nothing.
func look(t *testing.T, text string, needs ...uintptr) program {
	t.Helper()
	fd, err := unix.MemfdCreate("maps", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(fd) //nolint:errcheck // nothing was written that counts
	n, err := unix.Write(fd, []byte(text))
	require.NoError(t, err)
	require.Equal(t, len(text), n)
	w := &world{}
	copy(w.program.needs[:], needs)
	require.True(t, w.mappings(uintptr(fd), passFind))
	if w.program.inode != 0 {
		require.True(t, w.mappings(uintptr(fd), passCheck))
	}
	return w.program
}

// What the raw code needs is found in the lines of proc_pid_maps(5), or the launcher
// stays as it is.
func TestMappings(t *testing.T) {
	const long = "7f0000000000-7f0000001000 r--p 00000000 00:00 0                          [vvar]\n"
	for _, tt := range []struct {
		name  string
		text  string
		needs [3]uintptr
		inode uintptr // 0: it is not begun
		has   uintptr
	}{
		{
			name: "a static program",
			text: "00400000-006d9000 r-xp 00000000 fe:00 10003186                           /tmp/a b-c\n" +
				"006d9000-009db000 r--p 002d9000 fe:00 10003186                           /tmp/a b-c\n" +
				"009db000-00a03000 rw-p 005db000 fe:00 10003186                           /tmp/a b-c\n" +
				"00a03000-02a3b000 rw-p 00000000 00:00 0 \n" + long,
			needs: [3]uintptr{0x400000, 0xa02fff, 0x2a3afff}, inode: 10003186, has: 3,
		},
		{
			name: "zeros that are not behind the program are another's",
			text: "00400000-00500000 r-xp 00000000 fe:00 7                           /a\n" +
				"00501000-00502000 rw-p 00000000 00:00 0 \n",
			needs: [3]uintptr{0x400000, 0x400000, 0x501000}, inode: 7, has: 2,
		},
		{
			name: "another file system's file of the same number, of digits that could be mistaken",
			text: "00400000-00500000 r-xp 00000000 08:11 7                           /a\n" +
				"00501000-00502000 rw-p 00000000 81:1 7 /b\n",
			needs: [3]uintptr{0x4fffff, 0x400000, 0x501fff}, inode: 7, has: 2,
		},
		{
			name: "several mappings of zeros, named ones too",
			text: "00400000-00500000 r-xp 00000000 08:11 18446744073709551615                           /a\n" +
				"00500000-00502000 rw-p 00000000 00:00 0 \n00502000-00503000 rw-p 00000000 00:00 0                          [heap]\n",
			needs: [3]uintptr{0x400000, 0x500000, 0x502fff}, inode: ^uintptr(0), has: 3,
		},
		{
			name:  "code that was copied to memory of no file",
			text:  "00400000-00500000 r-xp 00000000 00:00 0 \n",
			needs: [3]uintptr{0x400000, 0x400000, 0x400000},
		},
		{name: "no code", text: long, needs: [3]uintptr{0x400000, 0x400000, 0x400000}},
		{name: "nothing", needs: [3]uintptr{0x400000, 0x400000, 0x400000}},
		{
			name: "a line over the end of a read",
			text: strings.Repeat(long, bufferSize/len(long)) + "00400000-00500000 r-xp 00000000 08:11 7 " + strings.Repeat("/a", 4000) + "\n" +
				"00500000-00502000 rw-p 00000000 00:00 0 \n",
			needs: [3]uintptr{0x400000, 0x400000, 0x500000}, inode: 7, has: 3,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := look(t, tt.text, tt.needs[:]...)
			require.Equal(t, tt.inode, p.inode)
			require.Equal(t, tt.has, p.has)
		})
	}
}

// This process's own: the program's file, and all that is needed, in any build.
func TestMappingsOfThisProgram(t *testing.T) {
	text, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	var s syscall.Stat_t
	require.NoError(t, syscall.Stat("/proc/self/exe", &s))
	p := look(t, string(text), entry(serve), uintptr(unsafe.Pointer(&inData)), uintptr(unsafe.Pointer(&inBSS)))
	require.Equal(t, uintptr(s.Ino), p.inode)
	require.Equal(t, uintptr(3), p.has)
}

// Where the mappings cannot be read, nothing is begun.
func TestMappingsUnreadable(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close() //nolint:errcheck // a pipe
	defer w.Close() //nolint:errcheck // a pipe
	require.False(t, (&world{}).mappings(r.Fd(), passFind), "a pipe has no beginning to go back to")
	require.False(t, (&world{}).mappings(^uintptr(0), passFind))
}
