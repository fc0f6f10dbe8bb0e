package container_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/security"
)

// program32 is a program of 32-bit ARM.
func program32(t *testing.T, code ...uint32) []byte {
	t.Helper()
	const headers, base = 52 + 32, 0x10000
	size := uint32(headers + 4*len(code))
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header32{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_ARM), Version: uint32(elf.EV_CURRENT),
			Entry: base + headers, Phoff: 52, Flags: 5 << 24, Ehsize: 52, Phentsize: 32, Phnum: 1,
		},
		elf.Prog32{Type: uint32(elf.PT_LOAD), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Flags: uint32(elf.PF_R | elf.PF_X), Align: base},
		code,
	} {
		require.NoError(t, binary.Write(&b, binary.LittleEndian, part))
	}
	return b.Bytes()
}

// Calls of 32-bit programs, which no profile looks at, end the process; without a
// profile init's limits are closed to them.
func TestForeignCalls(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	const (
		svc       = 0xef000000
		setNr     = 0xe3a07000 // mov r7, #…
		exit      = setNr | 1
		getpid    = setNr | 20
		prlimit64 = 0xe3007171 // movw r7, #369
		setR0     = 0xe3a00000
		files     = 0xe3a01000 | unix.RLIMIT_NOFILE
		noNew     = 0xe3a02000
		noOld     = 0xe3a03000
		negate    = 0xe2600000 // rsb r0, r0, #0
	)
	harmless := program32(t, getpid, svc, setR0, exit, svc)
	path := filepath.Join(t.TempDir(), "a")
	require.NoError(t, os.WriteFile(path, harmless, 0o755))
	if err := exec.CommandContext(t.Context(), path).Run(); errors.Is(err, unix.ENOEXEC) {
		t.Skip("needs another machine: this one's processors have no 32-bit programs")
	} else {
		require.NoError(t, err)
	}
	for name, profile := range map[string]*security.Seccomp{"default": nil, "strict": security.Strict()} {
		res, err := container.Run(timeout(t), container.WithFile("/work/a", harmless, 0o755), container.WithSeccomp(profile), container.WithCommand("/work/a"))
		require.NoError(t, err)
		require.Equal(t, container.SyscallRefused, res.Status, "%s: %v", name, res)
		if res.Syscall != "" { // the kernel's log may be closed, or busy
			require.Equal(t, "arm:20", res.Syscall)
		}
	}
	for pid, errno := range map[uint32]unix.Errno{0: 0, 1: unix.EPERM} {
		limits := program32(t, setR0|pid, files, noNew, noOld, prlimit64, svc, negate, exit, svc)
		res, err := container.Run(timeout(t), container.WithFile("/work/a", limits, 0o755), container.WithSeccomp(security.Unconfined()),
			container.WithCapabilities("CAP_SYS_RESOURCE"), container.WithCommand("/work/a"))
		require.NoError(t, err)
		require.Equal(t, container.Exited, res.Status, "%v", res)
		require.Equal(t, int(errno), res.ExitCode, "of process %d: %v", pid, res)
	}
}
