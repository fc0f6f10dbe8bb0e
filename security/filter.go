package security

import "github.com/inlay-dev/inlay/internal/plan"

// ForbidForeignPrlimit emits a small seccomp filter: prlimit64(2) with a pid
// other than 0 is answered EPERM. A job that shares its id with init, or has
// capabilities, could otherwise set init's limits, and kill it by a forced
// SIGXCPU.
func ForbidForeignPrlimit(b *plan.Builder, arch plan.Arch) {
	// struct seccomp_data: nr at 0, arch at 4, args[0] at 16 (low), 20 (high).
	const (
		load, jeq, jset, ret     = 0x20, 0x15, 0x45, 0x06
		allow, eperm             = 0x7fff0000, 0x00050001
		x86_64, aarch64, i386    = 0xc000003e, 0xc00000b7, 0x40000003
		prlimit64, prlimitArm    = 302, 261
		prlimitI386, x32Bit      = 340, 0x40000000
		prlimitArm32, arm32      = 369, 0x40000028
		native, nativeNr, second = 0, 1, 2 // places in want
	)
	want := [4]uint32{x86_64, prlimit64, i386, prlimitI386}
	if arch == plan.ARM64 {
		want = [4]uint32{aarch64, prlimitArm, arm32, prlimitArm32}
	}
	ins := func(code uint16, jt, jf uint8, k uint32) uint64 {
		return uint64(code) | uint64(jt)<<16 | uint64(jf)<<24 | uint64(k)<<32
	}
	b.Seccomp([]uint64{
		0:  ins(load, 0, 0, 4),
		1:  ins(jeq, 0, 4, want[native]), // else the second architecture, at 6
		2:  ins(load, 0, 0, 0),
		3:  ins(jset, 0, 1, x32Bit), // x32's prlimit64 has the same number, with the bit
		4:  ins(0x54, 0, 0, ^uint32(x32Bit)),
		5:  ins(jeq, 3, 7, want[nativeNr]),
		6:  ins(jeq, 0, 6, want[second]),
		7:  ins(load, 0, 0, 0),
		8:  ins(jeq, 0, 4, want[3]),
		9:  ins(load, 0, 0, 16),
		10: ins(jeq, 0, 3, 0),
		11: ins(load, 0, 0, 20),
		12: ins(jeq, 0, 1, 0),
		13: ins(ret, 0, 0, allow),
		14: ins(ret, 0, 0, eperm),
	}, specAllow, "prlimit64 of others: EPERM")
}
