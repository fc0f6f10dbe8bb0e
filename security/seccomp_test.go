package security

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// interpret runs a filter as the kernel does, seccomp(2), and counts the steps.
func interpret(t testing.TB, program []uint64, arch, nr uint32, args [6]uint64) (verdict uint32, steps int) {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, nr)
	data = binary.LittleEndian.AppendUint32(data, arch)
	data = binary.LittleEndian.AppendUint64(data, 0x1234) // instruction pointer
	for _, a := range args {
		data = binary.LittleEndian.AppendUint64(data, a)
	}
	var acc uint32
	for pc := 0; ; pc++ {
		steps++
		require.Less(t, pc, len(program), "ran off its end")
		ins := program[pc]
		jt, jf, k := int(ins>>16&0xff), int(ins>>24&0xff), uint32(ins>>32)
		jump := func(yes bool) {
			if yes {
				pc += jt
			} else {
				pc += jf
			}
		}
		switch uint16(ins) {
		case opLoad:
			acc = binary.LittleEndian.Uint32(data[k:])
		case opAnd:
			acc &= k
		case opJump:
			pc += int(k)
		case opEqual:
			jump(acc == k)
		case opGreater:
			jump(acc > k)
		case opAtLeast:
			jump(acc >= k)
		case opReturn:
			return k, steps
		default:
			require.FailNow(t, "an instruction that no compiler wrote", "%#x at %d", ins, pc)
		}
	}
}

// agree checks that the compiled filter and the plain evaluation say the same.
func agree(t testing.TB, s *Seccomp, arch string, nr uint32, args [6]uint64) {
	t.Helper()
	program, err := s.Compile(arch)
	require.NoError(t, err)
	want, _ := s.call(arch, nr, args)
	got, _ := interpret(t, program, auditArch[arch], nr, args)
	require.Equal(t, want, got, "%s call %d %x: %s, compiled %s", arch, nr, args, show(want), show(got))
}

// random makes a profile that a seed stands for.
func random(r *rand.Rand) *specs.LinuxSeccomp {
	pick := func(list []specs.LinuxSeccompAction) (specs.LinuxSeccompAction, *uint) {
		a := list[r.IntN(len(list))]
		if actions[a].data && r.IntN(2) == 0 {
			errno := uint(1 + r.IntN(maxErrno))
			return a, &errno
		}
		return a, nil
	}
	all := slices.Sorted(maps.Keys(actions))
	names := slices.Sorted(maps.Keys(syscallNumbers["amd64"]))
	ops := slices.Sorted(maps.Keys(operators))
	p := &specs.LinuxSeccomp{}
	p.DefaultAction, p.DefaultErrnoRet = pick(all)
	for range r.IntN(30) {
		var e specs.LinuxSyscall
		e.Action, e.ErrnoRet = pick(all)
		for range 1 + r.IntN(20) {
			if r.IntN(20) == 0 {
				e.Names = append(e.Names, "no_such_call")
			}
			e.Names = append(e.Names, names[r.IntN(len(names))])
		}
		for range r.IntN(4) {
			e.Args = append(e.Args, specs.LinuxSeccompArg{
				Index: uint(r.IntN(6)), Value: number(r), ValueTwo: number(r), Op: ops[r.IntN(len(ops))],
			})
		}
		p.Syscalls = append(p.Syscalls, e)
	}
	return p
}

// number is one of which others are not far.
func number(r *rand.Rand) uint64 {
	edges := []uint64{0, 1, 2, 7, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 7 << 32, 1<<63 - 1, 1 << 63, ^uint64(0)}
	return edges[r.IntN(len(edges))]
}

func check(t testing.TB, s *Seccomp, r *rand.Rand, arch string) {
	t.Helper()
	var args [6]uint64
	for nr := uint32(0); nr < 500; nr++ {
		for range 4 {
			for i := range args {
				args[i] = number(r)
			}
			agree(t, s, arch, nr, args)
		}
	}
	for _, nr := range []uint32{1000, x32 - 1, x32, x32 + 1, x32 + 335, 1 << 31, noCall - 1, noCall} {
		agree(t, s, arch, nr, args)
	}
	program, err := s.Compile(arch)
	require.NoError(t, err)
	for _, foreign := range []uint32{0, 0x40000003, 0x40000028, 0xc000003e ^ 0xc00000b7 ^ auditArch[arch]} {
		v, _ := interpret(t, program, foreign, 0, args)
		require.Equal(t, uint32(foreignArch), v, "%#x", foreign)
	}
}

func FuzzSeccomp(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, seed%2 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, arm bool) {
		r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // to be repeated
		s, err := NewSeccomp(random(r))
		require.NoError(t, err)
		arch := "amd64"
		if arm {
			arch = "arm64"
		}
		check(t, s, r, arch)
	})
}

// Profiles that people use: see testdata/seccomp/README.md.
func TestSeccompCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/seccomp/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			s, err := ParseSeccomp(text)
			require.NoError(t, err)
			for arch, name := range map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64} {
				if len(s.profile.Architectures) > 0 && !slices.Contains(s.profile.Architectures, name) {
					continue
				}
				program, err := s.Compile(arch)
				require.NoError(t, err)
				deepest := 0
				for nr := range uint32(500) {
					_, steps := interpret(t, program, auditArch[arch], nr, [6]uint64{})
					deepest = max(deepest, steps)
				}
				t.Logf("%s: %d instructions, at most %d for a call", arch, len(program), deepest)
				check(t, s, rand.New(rand.NewPCG(1, 2)), arch) //nolint:gosec // to be repeated
			}
		})
	}
}

// Strict names no call that does not exist, and leaves out what it says.
func TestStrict(t *testing.T) {
	s := Strict()
	for arch := range auditArch {
		program, err := s.Compile(arch)
		require.NoError(t, err)
		t.Logf("%s: %d instructions", arch, len(program))
		check(t, s, rand.New(rand.NewPCG(3, 4)), arch) //nolint:gosec // to be repeated
	}
	for _, name := range strings.Fields(strictCalls) {
		_, amd := syscallNumbers["amd64"][name]
		_, arm := syscallNumbers["arm64"][name]
		require.True(t, amd || arm, name)
	}
	for call, want := range map[string]string{
		"ptrace": "SCMP_ACT_ERRNO(1)", "unshare": "SCMP_ACT_ERRNO(1)", "bpf": "SCMP_ACT_ERRNO(1)", "clone3": "SCMP_ACT_ERRNO(38)",
		"io_uring_setup": "SCMP_ACT_ERRNO(1)", "keyctl": "SCMP_ACT_ERRNO(1)", "mount": "SCMP_ACT_ERRNO(1)", "openat": "SCMP_ACT_ALLOW",
	} {
		require.Contains(t, s.Explain("amd64", call), want)
	}
	for _, tt := range []struct {
		call string
		args []uint64
		want string
	}{
		{"socket", []uint64{1}, "SCMP_ACT_ALLOW"},
		{"socket", []uint64{2}, "SCMP_ACT_ERRNO(97)"},
		{"socket", []uint64{1<<32 | 2}, "SCMP_ACT_ERRNO(97)"},
		// The kernel looks at 32 bits of a command alone: CVE-2019-10063.
		{"ioctl", []uint64{0, 0x5412}, "SCMP_ACT_ERRNO(1)"},
		{"ioctl", []uint64{0, 1<<32 | 0x5412}, "SCMP_ACT_ERRNO(1)"},
		{"ioctl", []uint64{0, 0x541c}, "SCMP_ACT_ERRNO(1)"},
		{"ioctl", []uint64{0, 0x5401}, "SCMP_ACT_ALLOW"},
		{"clone", []uint64{0x10000000}, "SCMP_ACT_ERRNO(1)"},
		{"clone", []uint64{0x3d0f00}, "SCMP_ACT_ALLOW"},
		{"personality", []uint64{0xffffffff}, "SCMP_ACT_ALLOW"},
		{"personality", []uint64{0x20000}, "SCMP_ACT_ERRNO(1)"},
	} {
		require.Contains(t, s.Explain("amd64", tt.call, tt.args...), tt.want, "%v", tt)
	}
}

func TestSeccompFaults(t *testing.T) {
	for _, tt := range []struct{ profile, want string }{
		{`{}`, `seccomp profile: action "" does not exist`},
		{`{"defaultAction": "SCMP_ACT_NONE"}`, `"SCMP_ACT_NONE" does not exist`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}`, "errnoRet with SCMP_ACT_ALLOW, which has none"},
		{`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}`, "errnoRet 4096: from 1 to 4095"},
		{`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]}`, "syscalls[0]: no names"},
		{`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "ALLOW"}]}`, `syscalls[0]: action "ALLOW" does not exist`},
		{`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}`, "argument 6"},
		{`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "EQ"}]}]}`, `operator "EQ"`},
		{`{`, "unexpected EOF"},
		{`{"defaultAction": "SCMP_ACT_ALLOW"} x`, "something follows"},
	} {
		_, err := ParseSeccomp([]byte(tt.profile))
		require.ErrorContains(t, err, tt.want, tt.profile)
		var e *SeccompError
		require.ErrorAs(t, err, &e)
	}
	s, err := ParseSeccomp([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_AARCH64"]}`))
	require.NoError(t, err)
	_, err = s.Compile("amd64")
	require.ErrorContains(t, err, "SCMP_ARCH_X86_64 is not among them")
	_, err = s.Compile("riscv64")
	require.ErrorContains(t, err, "no table of system calls")
	_, err = s.Compile("arm64")
	require.NoError(t, err)
}

// Rules that differ in every call and argument do not fit.
func TestSeccompTooLong(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i, name := range slices.Sorted(maps.Keys(syscallNumbers["amd64"])) {
		e := specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow}
		for arg := range uint(6) {
			e.Args = append(e.Args, specs.LinuxSeccompArg{Index: arg, Value: uint64(i) << 20, Op: specs.OpEqualTo})
		}
		p.Syscalls = append(p.Syscalls, e)
	}
	s, err := NewSeccomp(p)
	require.NoError(t, err)
	_, err = s.Compile("amd64")
	require.ErrorContains(t, err, "of which the kernel takes 4096")
}

func TestSeccompExplain(t *testing.T) {
	s, err := ParseSeccomp([]byte(`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
		{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
		{"names": ["openat", "rseq"], "action": "SCMP_ACT_ALLOW"}]}`))
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		args []uint64
		want string
	}{
		{"openat", nil, "openat (257): SCMP_ACT_ALLOW, by syscalls[1]"},
		{"clone", []uint64{17}, "clone (56): SCMP_ACT_ALLOW, by syscalls[0]"},
		{"clone", []uint64{0x10000000}, "clone (56): SCMP_ACT_ERRNO(1), by the default action"},
		{"clone3", nil, "clone3 (435): SCMP_ACT_ERRNO(38), by newer than every call that the profile names"},
		{"clone4", nil, "clone4: amd64 has no such system call"},
	} {
		require.Equal(t, tt.want, s.Explain("amd64", tt.name, tt.args...))
	}
}

// Allows is what lets a call through unseen, and nothing else.
func TestSeccompAllows(t *testing.T) {
	for _, tt := range []struct {
		name    string
		action  specs.LinuxSeccompAction
		allowed bool
	}{{"allow", specs.ActAllow, true}, {"log", specs.ActLog, false}, {"errno", specs.ActErrno, false}, {"kill", specs.ActKillProcess, false}} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := NewSeccomp(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
				Names: []string{"clock_gettime"}, Action: tt.action, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 1, Op: specs.OpEqualTo}},
			}}})
			require.NoError(t, err)
			for _, arch := range []string{"amd64", "arm64"} {
				require.Equal(t, tt.allowed, s.Allows(arch, "clock_gettime", 1))
				require.True(t, s.Allows(arch, "clock_gettime", 0), "another argument")
			}
		})
	}
	require.True(t, Strict().Allows("amd64", "clock_gettime", 1))
	require.False(t, Strict().Allows("amd64", "mount"))
	require.False(t, Strict().Allows("amd64", "none such"))
	require.True(t, Unconfined().Allows("amd64", "mount"))
}

func BenchmarkSeccompCompile(b *testing.B) {
	text, err := os.ReadFile("testdata/seccomp/moby.json")
	require.NoError(b, err)
	for b.Loop() {
		s, err := ParseSeccomp(text)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Compile("amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
