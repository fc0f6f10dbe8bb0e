package security

import "strconv"

// SyscallName is the name of a system call by the kernel's number for its
// architecture, AUDIT_ARCH_* of linux/audit.h: "mkdir"; "x32:39" and "i386:5" for
// entries of other kinds of programs, "#1000" for a call that is not known here.
func SyscallName(arch, number uint32) string {
	const x32, i386, arm = 1 << 30, 0x40000003, 0x40000028
	for name, a := range auditArch {
		if a != arch {
			continue
		}
		if name == "amd64" && number&x32 != 0 {
			return "x32:" + strconv.Itoa(int(number&^x32))
		}
		for call, n := range syscallNumbers[name] {
			if n == number {
				return call
			}
		}
		return "#" + strconv.Itoa(int(number))
	}
	switch arch {
	case i386:
		return "i386:" + strconv.Itoa(int(number))
	case arm:
		return "arm:" + strconv.Itoa(int(number))
	}
	return "arch " + strconv.FormatUint(uint64(arch), 16) + ":" + strconv.Itoa(int(number))
}
