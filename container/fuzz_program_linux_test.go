package container

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/security"
)

// untrusted is what the kernel writes of a text that a program chooses:
// audit_log_untrustedstring.
func untrusted(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == '"' || r < 0x21 || r > 0x7e }) {
		return strings.ToUpper(hex.EncodeToString([]byte(s)))
	}
	return `"` + s + `"`
}

// What a job chooses, the first page of its program and its name in the kernel's
// log, gets no more than a place in a line: an interpreter is told as it is
// there, and a record about a process says of its call what the kernel said.
func FuzzHostileTexts(f *testing.F) {
	program := make([]byte, 64+2*56+16)
	copy(program, "\x7fELF\x02\x01\x01")
	program[16], program[18], program[20] = 2, 62, 1
	program[32], program[52], program[54], program[56] = 64, 64, 56, 2
	program[64+56], program[64+56+8], program[64+56+32] = 3, 64+2*56, 16
	copy(program[64+2*56:], "/lib/ld\x1b[2J\n.so")
	for _, head := range [][]byte{
		program, nil, []byte("#!"), []byte("#!/bin/sh\r\n"), []byte("#! /no/such -x\n"), []byte("#!/a\x1b[31m\x00b"), []byte("#!" + strings.Repeat("x", 4000)), []byte("\x7fELF"), make([]byte, 64),
		append([]byte("\x7fELF\x02\x01"), bytes.Repeat([]byte{0xff}, 90)...), append([]byte("\x7fELF\x01\x02"), program[6:]...),
	} {
		f.Add(head, uint16(2), "sh", uint32(0xc000003e), uint32(83))
		f.Add(head, uint16(8), "a pid=1 sig=31 syscall=59", uint32(0x40000003), uint32(5))
	}
	f.Add([]byte("6,1,2,-;audit: type=1326 audit(NaN:1): pid=7 sig=31 arch=c000003e syscall=1"), uint16(13), "pid=7", uint32(1), uint32(1))
	f.Add([]byte("audit: type=1326 audit(1"), uint16(13), `x"`, uint32(1), ^uint32(0))
	f.Fuzz(func(t *testing.T, head []byte, errno uint16, name string, arch, number uint32) {
		if len(head) > 4096 {
			head = head[:4096]
		}
		e := syscall.Errno(1 + errno%133)
		why, remedy := unreadableProgram(head, e)
		require.NotEmpty(t, why)
		require.Less(t, len(why), 600)
		line(t, why)
		line(t, remedy)
		if len(head) >= 64 && string(head[:4]) == elf.ELFMAG {
			fuzzInterpreter(t, head)
		}

		const pid, number0 = 7, 1700000000
		since := time.Unix(number0, 0)
		if call, ok := auditedCall(head, pid, since); ok {
			require.Contains(t, string(head), "pid=7")
			require.Contains(t, string(head), "sig=31")
			require.NotEmpty(t, call)
		}
		record := func(pid int, at int64) []byte {
			return fmt.Appendf(nil, "5,1234,5140900,-;audit: type=1326 audit(%d.250:77): auid=4294967295 uid=0 gid=0 ses=4294967295 subj=unconfined pid=%d comm=%s exe=%s sig=31 arch=%x syscall=%d compat=0 ip=0x4 code=0x80000000\n",
				at, pid, untrusted(name), untrusted("/"+name), arch, number)
		}
		call, ok := auditedCall(record(pid, number0), pid, since)
		require.True(t, ok)
		require.Equal(t, security.SyscallName(arch, number), call)
		_, ok = auditedCall(record(pid+1, number0), pid, since)
		require.False(t, ok, "it is about another process")
		_, ok = auditedCall(record(pid, number0-1), pid, since)
		require.False(t, ok, "it is about an earlier process of the same number")
	})
}

// fuzzInterpreter compares with the standard library, where that reads the page as a
// whole program.
func fuzzInterpreter(t *testing.T, head []byte) {
	t.Helper()
	got := interpreterOf(head)
	require.True(t, bytes.Contains(head, []byte(got)))
	file, err := elf.NewFile(bytes.NewReader(head))
	if err != nil || file.Class != elf.ELFCLASS64 || file.Data != elf.ELFDATA2LSB {
		return
	}
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Off <= uint64(len(head)) && p.Filesz <= uint64(len(head))-p.Off {
			require.Equal(t, strings.TrimRight(string(head[p.Off:p.Off+p.Filesz]), "\x00"), got)
		} else {
			require.Empty(t, got)
		}
		return
	}
	require.Empty(t, got)
}
