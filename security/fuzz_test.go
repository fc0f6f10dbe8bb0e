package security

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// Whatever a text is, it is refused with a SeccompError, or it is one JSON value whose
// profile compiles (or is said not to), does what the plain evaluation says, and is
// the same after a way through JSON.
func FuzzParseSeccomp(f *testing.F) {
	files, err := filepath.Glob("testdata/seccomp/*.json")
	require.NoError(f, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(text)
	}
	for _, text := range []string{
		`{"defaultAction": "SCMP_ACT_ALLOW"}`, `{"defaultAction": "SCMP_ACT_ALLOW"}}`, `{"defaultAction": "SCMP_ACT_ALLOW"} ]`, `null`, `"unconfined"`, `{`,
		`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"], "architectures": ["SCMP_ARCH_AARCH64"]}`,
		`{"defaultAction": "SCMP_ACT_KILL", "flags": [], "syscalls": [{"names": ["read", "nothing"], "action": "SCMP_ACT_TRACE", "errnoRet": 7, "args": [{"index": 5, "value": 18446744073709551615, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]}]}`,
		`{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x", "syscalls": [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 4294967296, "op": "SCMP_CMP_GE"}, {"index": 1, "value": 3, "op": "SCMP_CMP_NE"}]}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSeccomp(text)
		if err != nil {
			require.Nil(t, s)
			list := []error{err}
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				list = joined.Unwrap()
			}
			for _, e := range list {
				var fault *SeccompError
				require.ErrorAs(t, e, &fault)
			}
			return
		}
		require.True(t, json.Valid(text), "something follows the profile")
		require.True(t, s.Confines())
		out, err := json.Marshal(s)
		require.NoError(t, err)
		back, err := ParseSeccomp(out)
		require.NoError(t, err)
		again, err := json.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, string(out), string(again))
		require.Equal(t, s.Flags(), back.Flags())
		require.Equal(t, s.Notifies(), back.Notifies())
		var read Seccomp
		require.NoError(t, json.Unmarshal(out, &read))
		require.Equal(t, s.profile, read.profile)
		require.Error(t, json.Unmarshal(out, &read), "a profile is never changed once made")

		r := rand.New(rand.NewPCG(uint64(len(text)), 1)) //nolint:gosec // to be repeated
		for arch, name := range map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64} {
			program, err := s.Compile(arch)
			same, errBack := back.Compile(arch)
			require.Equal(t, err, errBack)
			require.Equal(t, program, same)
			if err != nil {
				var e *SeccompError
				require.ErrorAs(t, err, &e)
				listed := len(s.profile.Architectures) == 0 || slices.Contains(s.profile.Architectures, name)
				require.True(t, !listed || strings.Contains(e.Reason, "instructions"), "%v", err)
				continue
			}
			require.LessOrEqual(t, len(program), maxFilter)
			for _, e := range s.profile.Syscalls {
				for _, n := range e.Names[:min(len(e.Names), 8)] {
					var args [6]uint64
					for i := range args {
						args[i] = number(r)
					}
					for _, c := range e.Args { // so that it often matches
						args[c.Index] = c.Value + uint64(r.IntN(2))
					}
					if nr, ok := syscallNumbers[arch][n]; ok {
						agree(t, s, arch, nr, args)
					}
					require.NotEmpty(t, s.Explain(arch, n, args[:]...))
				}
			}
			for _, nr := range []uint32{0, 1, 56, 435, 1000, x32, noCall} {
				agree(t, s, arch, nr, [6]uint64{})
			}
		}
	})
}

// Names that people write: each is refused, or stands for one thing, and what it
// stands for is its own name. What Landlock rules pass Validate are said to be kept
// or not, and are the same after a way through JSON.
func FuzzNames(f *testing.F) {
	for _, n := range []string{"net_admin", "CAP_NET_ADMIN", "cap_sys_ptrace", "CAP_CAP_KILL", "all", "", "SECBIT_NOROOT", "noroot-locked", "keep-caps", "nofile", "RLIMIT_NOFILE", "rtprio", "read", "i386:5", "\xff"} {
		f.Add(n, uint64(1), uint64(2), uint32(0xc000003e), []byte(`{"read": ["/usr"], "bind": [], "connect": [80], "scope_signals": true}`))
	}
	f.Add("x", ^uint64(0), uint64(0), uint32(0x40000003), []byte(`{"write": ["/a\u0000"], "bind": null}`))
	f.Fuzz(func(t *testing.T, name string, soft, hard uint64, arch uint32, rules []byte) {
		if c, err := ParseCapability(name); err == nil {
			again, err := ParseCapability(c)
			require.NoError(t, err)
			require.Equal(t, c, again)
			bits, err := CapabilityBits([]string{c, c})
			require.NoError(t, err)
			require.True(t, bits != 0 && bits&(bits-1) == 0, "%#x", bits)
		}
		if s, err := ParseSecurebit(name); err == nil {
			again, err := ParseSecurebit(s)
			require.NoError(t, err)
			require.Equal(t, s, again)
			mask, err := SecurebitsMask([]string{s})
			require.NoError(t, err)
			require.NotZero(t, mask)
		}
		rlimit := Rlimit{Name: name, Soft: soft, Hard: hard}
		if rlimit.Validate() == nil {
			require.LessOrEqual(t, soft, hard)
		}
		require.NotPanics(t, func() { SyscallName(arch, uint32(soft)) })

		var l Landlock
		if json.Unmarshal(rules, &l) != nil || l.Validate() != nil {
			return
		}
		out, err := json.Marshal(&l)
		require.NoError(t, err)
		var back Landlock
		require.NoError(t, json.Unmarshal(out, &back))
		require.NoError(t, back.Validate(), "%s", out)
		require.Equal(t, l.String(), back.String())
		missing := len(l.Missing(0))
		for abi := 1; abi < 10; abi++ {
			if abi > 1 {
				require.LessOrEqual(t, len(l.Missing(abi)), missing, "a newer kernel keeps no less")
			}
			require.Equal(t, l.Missing(abi), back.Missing(abi))
			missing = len(l.Missing(abi))
		}
		require.Empty(t, l.Missing(9))
	})
}
