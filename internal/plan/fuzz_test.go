package plan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Validate refuses or takes a plan, and changes nothing. What it takes can be read
// without another look: sizes, offsets and registers are within their bounds.
func FuzzValidate(f *testing.F) {
	for _, arch := range []Arch{AMD64, ARM64} {
		b, err := sample().Encode(arch)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		err := Validate(b)
		require.Equal(t, before, b)
		if err != nil {
			require.ErrorIs(t, err, ErrEncoding)
			return
		}
		d := decode(b)
		require.LessOrEqual(t, len(b), MaxSize)
		for _, s := range d.steps {
			require.Less(t, int(s.dst), MaxRegisters)
			for j, k := range s.kinds {
				switch argKind(k) {
				case argPtr:
					require.Less(t, s.args[j], uint64(len(d.data)))
				case argReg:
					require.Less(t, s.args[j], uint64(MaxRegisters))
				case argImm:
				default:
					require.Fail(t, "a kind that is none", "%d", k)
				}
			}
		}
		require.True(t, slices.IsSorted(d.relocs))
		for _, r := range d.relocs {
			require.Less(t, binary.LittleEndian.Uint64(d.data[r:]), uint64(len(d.data)))
		}
	})
}

// decoded is an encoded plan as a plain reading of the layout has it.
type decoded struct {
	steps  []decodedStep
	relocs []uint32
	data   []byte
}

type decodedStep struct {
	number int32
	dst    int16
	kinds  [6]byte
	args   [6]uint64
	errnos []uint32
}

func decode(b []byte) (d decoded) {
	le := binary.LittleEndian
	steps, data, relocs := le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:])
	at := b[32:]
	for range steps {
		s := decodedStep{number: int32(le.Uint32(at)), dst: int16(le.Uint16(at[4:])), kinds: [6]byte(at[8:14])}
		for j := range s.args {
			s.args[j] = le.Uint64(at[16+8*j:])
		}
		for j := range le.Uint16(at[6:]) {
			s.errnos = append(s.errnos, le.Uint32(at[64+4*j:]))
		}
		d.steps, at = append(d.steps, s), at[80:]
	}
	for i := range relocs {
		d.relocs = append(d.relocs, le.Uint32(at[4*i:]))
	}
	d.data = b[uint32(len(b))-data:]
	return d
}

// text is the string at an offset of the data, up to its NUL.
func (d decoded) text(at uint64) string {
	s, _, _ := bytes.Cut(d.data[at:], []byte{0})
	return string(s)
}

// build adds what a script says: one byte chooses a step, the next ones its numbers.
func build(b *Builder, script []byte, words []string) {
	next := func() int {
		if len(script) == 0 {
			return 0
		}
		c := script[0]
		script = script[1:]
		return int(c)
	}
	word := func() string { return words[next()%len(words)] }
	fds := []Reg{b.Register("first")}
	fd := func() Reg { return fds[next()%len(fds)] }
	dir := func() Dir {
		if next()%2 == 0 {
			return CWD
		}
		return fd().At()
	}
	keep := func(r Reg) { fds = append(fds, r) }
	for len(script) > 0 && b.Len() < 200 {
		switch next() % 27 {
		case 0:
			keep(b.Openat(dir(), word(), uint64(next())<<12, uint32(next()), word()))
		case 1:
			keep(b.Openat2(dir(), word(), uint64(next()), uint32(next()), uint64(next()), "opened"))
		case 2:
			b.Write(fd(), bytes.Repeat([]byte{byte(next())}, 40*next()), word())
		case 3:
			b.Read(fd(), next())
		case 4:
			var list []string
			for range next() % 8 {
				list = append(list, word())
			}
			b.Execve(word(), b.Strings(list), b.Strings(list), len(list), len(list))
		case 5:
			filter := make([]uint64, next())
			b.Seccomp(filter, uint64(next()), "a filter")
		case 6:
			b.Verify(fd(), word(), uint16(next()), uint32(next()%2), uint32(next()))
		case 7:
			b.Inside(word())
		case 8:
			b.RemoveGroups("/parent", word())
		case 9:
			b.LinkUp(word())
		case 10:
			b.Capset(uint64(next())<<36, uint64(next()), uint64(next()))
		case 11:
			b.Setgroups(make([]uint32, next()))
		case 12:
			r := b.LandlockCreateRuleset(make([]byte, 24))
			b.LandlockAddPath(r, fd(), uint64(next()), word())
			b.LandlockAddPort(r, uint64(next()), 1)
		case 13:
			b.Symlinkat(word(), dir(), word())
		case 14:
			b.Unlinkat(dir(), word(), uint64(next()))
		case 15:
			fs := b.Fsopen(word(), "fs")
			b.FsconfigString(fs, word(), word())
			keep(b.Fsmount(fs, uint64(next()), word(), "mount"))
		case 16:
			b.MountSetattr(fd(), uint64(next()), uint64(next()), uint64(next())<<12, word())
		case 17:
			b.MoveMount(fd(), dir(), word(), uint64(next()))
		case 18:
			b.Prlimit(next(), "RLIMIT_X", uint64(next()), ^uint64(0))
		case 19:
			b.Sethostname(word())
		case 20:
			b.Close(fd())
		case 21:
			b.UnblockSignals()
		case 22:
			b.Unshare(uint64(next()) << 24)
		case 24:
			b.Setns(fd(), uint64(next())<<24, word())
		case 25:
			b.InChild(word(), func() { b.Umask(uint32(next())) })
		case 26:
			b.Remount(fd(), uint64(next()), uint64(next()), uint64(next())<<12, word())
		case 23:
			if b.Len() > 0 {
				b.Tolerate(uint32(next()))
				b.Hint(word(), word())
			}
		}
	}
}

// What a builder was told, and nothing else, is in the encoded plan, for each
// architecture; a silent builder's is the same.
func FuzzEncode(f *testing.F) {
	all := make([]byte, 0, 27*8)
	for c := range byte(27) {
		all = append(all, c, 1, 2, 3, 4, 5, 6, 7)
		f.Add([]byte{c, 1, 2, 3, 4, 5}, "/x", "")
	}
	f.Add([]byte{3, 0, 0}, "", "") // a read of nothing, alone
	f.Add(all, "/usr/bin/\xff\n", "y")
	f.Add([]byte{2, 0, 3, 200, 1, 2, 0, 4, 200, 23, 5, 23, 6, 23, 7, 23, 8, 23, 9}, "a", "b")
	f.Fuzz(func(t *testing.T, script []byte, a, b string) {
		words := []string{a, b, "/x/y", ""}
		for i := range words { // Go's own strings may hold one, the kernel's do not
			words[i] = strings.ReplaceAll(words[i], "\x00", "")
		}
		loud, silent := NewBuilder(Child, AMD64, &Registers{}), NewSilentBuilder(Child, AMD64, &Registers{})
		build(loud, script, words)
		build(silent, script, words)
		p := loud.Plan()
		defer silent.Plan().Release()
		tolerates := slices.ContainsFunc(p.Steps, func(s Step) bool { return len(s.Tolerate) > 4 })
		for _, arch := range []Arch{AMD64, ARM64} {
			enc, err := p.Encode(arch)
			if tolerates {
				require.ErrorIs(t, err, ErrEncoding)
				return
			}
			require.NoError(t, err)
			quiet, err := silent.Plan().AppendEncode(make([]byte, 8), arch)
			require.NoError(t, err)
			require.Equal(t, enc, quiet[8:])
			d := decode(enc)
			require.Len(t, d.steps, len(p.Steps))
			for i, s := range p.Steps {
				want := decodedStep{number: s.Call.number(arch), dst: int16(s.Dst), errnos: s.Tolerate}
				for j, arg := range s.Args {
					want.kinds[j], want.args[j] = byte(arg.kind), arg.value
				}
				require.Equal(t, want, d.steps[i], "step %d", i+1)
				if s.Call == callExecve {
					argv := d.steps[i].args[1]
					for n := uint64(0); ; n++ {
						at := binary.LittleEndian.Uint64(d.data[argv+8*n:])
						reloc := slices.Contains(d.relocs, uint32(argv+8*n))
						if !reloc {
							require.Zero(t, at, "an array of strings ends in NULL")
							break
						}
						require.Contains(t, words, d.text(at))
					}
				}
			}
		}
		var out strings.Builder
		require.NoError(t, p.Explain(&out))
		lines := strings.SplitAfter(out.String(), "\n")
		require.Empty(t, lines[len(lines)-1])
		require.Len(t, lines[:len(lines)-1], len(p.Steps), "one line a step")
		for i, s := range p.Steps {
			require.Equal(t, fmt.Sprintf("child    %3d  %s\n", i+1, s.Label), lines[i])
		}
	})
}
