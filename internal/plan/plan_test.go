package plan

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sample() *Plan {
	regs := &Registers{}
	b := NewBuilder(Child, AMD64, regs)
	d := b.Openat(CWD, "/x", ODIRECTORY|OCLOEXEC, 0, "x")
	b.Mkdirat(d.At(), "y", 0o755)
	b.Tolerate(17)
	b.Hint("", "why")
	f := b.Openat2(d.At(), "z", OWRONLY|OCREAT, 0o600, ResolveInRoot, "z")
	b.Write(f, []byte(strings.Repeat("a", 5000)), "z")
	b.Verify(f, "z", 0o100000, 0, 0)
	b.Execve("/bin/true", b.Strings([]string{"true", ""}), b.Strings(nil), 2, 0)
	b.LinkUp("lo")
	b.Seccomp([]uint64{1, 2}, 4, "two")
	return b.Plan()
}

func TestEncodeValidates(t *testing.T) {
	for _, arch := range []Arch{AMD64, ARM64} {
		b, err := sample().Encode(arch)
		require.NoError(t, err)
		require.NoError(t, Validate(b))
		require.Zero(t, len(b)%8)
		for cut := 0; cut < len(b); cut += 7 {
			require.ErrorIs(t, Validate(b[:cut]), ErrEncoding)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	good, err := sample().Encode(AMD64)
	require.NoError(t, err)
	for name, change := range map[string]func(b []byte){
		"magic":           func(b []byte) { b[0]++ },
		"version":         func(b []byte) { b[4]++ },
		"steps":           func(b []byte) { b[8]++ },
		"data":            func(b []byte) { b[12] += 8 },
		"relocations":     func(b []byte) { b[16]++ },
		"call":            func(b []byte) { b[headerSize+2] = 1 },
		"register":        func(b []byte) { b[headerSize+5] = 0x7f },
		"tolerated":       func(b []byte) { b[headerSize+6] = 5 },
		"kind":            func(b []byte) { b[headerSize+8] = 9 },
		"pointer":         func(b []byte) { b[headerSize+8] = 1; b[headerSize+16+7] = 1 },
		"times":           func(b []byte) { b[20] = 2 },
		"times beyond":    func(b []byte) { b[22] = 1; b[20] = 1 },
		"register number": func(b []byte) { b[headerSize+8] = 2; b[headerSize+16+7] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			b := append([]byte(nil), good...)
			change(b)
			require.ErrorIs(t, Validate(b), ErrEncoding)
		})
	}
}

// A timed plan has room for a time before each step and one for the end; the steps
// of it that can be timed say so.
func TestTimed(t *testing.T) {
	b := NewBuilder(Exec, AMD64, &Registers{})
	b.Umask(0)
	b.Untimed()
	b.Umask(1)
	p := b.Plan()
	plain, err := p.Encode(AMD64)
	require.NoError(t, err)
	_, err = p.Times(plain)
	require.ErrorIs(t, err, ErrEncoding, "it is not timed")
	p.Timed = true
	timed, err := p.AppendEncode(make([]byte, 16), AMD64)
	timed = timed[16:]
	require.NoError(t, err)
	require.Len(t, timed, len(plain)+3*8)
	require.Equal(t, []byte{1, 0}, []byte{timed[headerSize+14], timed[headerSize+stepSize+14]})
	at := len(timed) - int(binary.LittleEndian.Uint32(timed[12:])) + int(binary.LittleEndian.Uint32(timed[20:])) - 1
	for i := range 3 {
		binary.LittleEndian.PutUint64(timed[at+8*i:], uint64(100+i))
	}
	times, err := p.Times(timed)
	require.NoError(t, err)
	require.Equal(t, []int64{100, 101, 102}, times)
	_, err = p.Times(nil)
	require.ErrorIs(t, err, ErrEncoding)
}

func TestTooManyTolerated(t *testing.T) {
	b := NewBuilder(Child, AMD64, &Registers{})
	b.Umask(0)
	b.Tolerate(1, 2, 3, 4, 5)
	_, err := b.Plan().Encode(AMD64)
	require.ErrorIs(t, err, ErrEncoding)
}

func TestExplain(t *testing.T) {
	var s strings.Builder
	require.NoError(t, sample().Explain(&s))
	first, _, _ := strings.Cut(s.String(), "\n")
	require.Equal(t, `child      1  openat(AT_FDCWD, "/x", O_DIRECTORY|O_CLOEXEC) = <x>`, first)
}

// O_DIRECTORY and O_NOFOLLOW have other values on arm64.
func TestArchitecturesDiffer(t *testing.T) {
	b := NewBuilder(Child, ARM64, &Registers{})
	b.Openat(CWD, "/", ODIRECTORY|ONOFOLLOW|OCLOEXEC, 0, "x")
	require.EqualValues(t, 0x4000|0x8000|OCLOEXEC, b.Plan().Steps[0].Args[2].value)
}

// Every call has a name and a number on both architectures, each once.
func TestCallTable(t *testing.T) {
	seen := map[int32]bool{}
	for c := callCheck; c < callEnd; c++ {
		require.NotEmpty(t, calls[c].name, "call %d", c)
		require.NotZero(t, calls[c].arm64, calls[c].name)
		require.False(t, seen[calls[c].amd64], calls[c].name)
		seen[calls[c].amd64] = true
	}
}

// The numbers are those of the table that is generated from x/sys.
func TestCallNumbers(t *testing.T) {
	text, err := os.ReadFile("../../security/syscalls.go")
	require.NoError(t, err)
	_, amd64, ok := strings.Cut(string(text), `"amd64": {`)
	require.True(t, ok)
	amd64, arm64, ok := strings.Cut(amd64, `"arm64": {`)
	require.True(t, ok)
	for c := Call(1); c < callEnd; c++ {
		if calls[c].amd64 < 0 {
			continue // the interpreter's own
		}
		require.Regexp(t, fmt.Sprintf(`"%s": +%d,`, calls[c].name, calls[c].amd64), amd64)
		require.Regexp(t, fmt.Sprintf(`"%s": +%d,`, calls[c].name, calls[c].arm64), arm64)
	}
}
