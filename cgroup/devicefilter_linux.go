package cgroup

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// On v2 no file lists devices: a BPF program, attached to the group, is asked at
// every opening and making of one (cgroups-v2, "Device controller"). It goes with
// the group.

// The kernel's numbers, linux/bpf.h.
const (
	bpfDevTypeBlock, bpfDevTypeChar                  = 1, 2
	bpfDevAccessMknod, bpfDevAccessRead, bpfDevWrite = 1, 2, 4

	opLoadWord   = 0x61 // dst = *(u32 *)(src + off)
	opMove       = 0xbf // dst = src
	opMoveImm    = 0xb7
	opAndImm     = 0x57
	opShiftImm   = 0x77 // to the right
	opJumpNotImm = 0x56 // if (u32)dst != imm, skip off instructions
	opExit       = 0x95
)

// instruction is one of eBPF's.
type instruction struct {
	op, dst, src uint8
	off          int16
	imm          int32
}

// deviceProgram answers 1 for what one of the rules allows, else 0.
func deviceProgram(rules []string) ([]instruction, error) {
	const ctx, kind, access, major, minor, scratch, result = 1, 2, 3, 4, 5, 6, 0
	prog := []instruction{
		// struct bpf_cgroup_dev_ctx: access_type, of which the lower half is the
		// device's type; major; minor.
		{op: opLoadWord, dst: kind, src: ctx},
		{op: opMove, dst: access, src: kind},
		{op: opAndImm, dst: kind, imm: 0xffff},
		{op: opShiftImm, dst: access, imm: 16},
		{op: opLoadWord, dst: major, src: ctx, off: 4},
		{op: opLoadWord, dst: minor, src: ctx, off: 8},
	}
	for _, rule := range rules {
		if err := ValidateDeviceRule(rule); err != nil {
			return nil, err
		}
		f := strings.Fields(rule)
		var block []instruction
		differs := func(reg uint8, want int32) { block = append(block, instruction{op: opJumpNotImm, dst: reg, imm: want}) }
		switch f[0] {
		case "b":
			differs(kind, bpfDevTypeBlock)
		case "c":
			differs(kind, bpfDevTypeChar)
		}
		allowed := int32(0)
		for letter, bit := range map[string]int32{"m": bpfDevAccessMknod, "r": bpfDevAccessRead, "w": bpfDevWrite} {
			if strings.Contains(f[2], letter) {
				allowed |= bit
			}
		}
		if denied := 7 &^ allowed; denied != 0 {
			block = append(block, instruction{op: opMove, dst: scratch, src: access}, instruction{op: opAndImm, dst: scratch, imm: denied})
			differs(scratch, 0)
		}
		a, b, _ := strings.Cut(f[1], ":")
		for _, n := range []struct {
			reg  uint8
			text string
		}{{major, a}, {minor, b}} {
			if n.text == "*" {
				continue
			}
			v, err := strconv.ParseUint(n.text, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", rule, err)
			}
			differs(n.reg, int32(uint32(v)))
		}
		block = append(block, instruction{op: opMoveImm, dst: result, imm: 1}, instruction{op: opExit})
		// Where something differs, on to the next rule.
		for i := range block {
			if block[i].op == opJumpNotImm {
				block[i].off = int16(len(block) - i - 1)
			}
		}
		prog = append(prog, block...)
	}
	return append(prog, instruction{op: opMoveImm, dst: result}, instruction{op: opExit}), nil
}

// filterDevices attaches the program to a group of v2.
func (p *place) filterDevices(rel string, rules []string) error {
	prog, err := deviceProgram(rules)
	if err != nil {
		return err
	}
	raw := make([]byte, 0, 8*len(prog))
	for _, i := range prog {
		raw = append(raw, i.op, i.src<<4|i.dst)
		raw = binary.NativeEndian.AppendUint16(raw, uint16(i.off))
		raw = binary.NativeEndian.AppendUint32(raw, uint32(i.imm))
	}
	const progLoad, progAttach, typeCgroupDevice, attachDevice, allowMulti = 5, 8, 15, 6, 2
	license := []byte("Apache-2.0\x00")
	load := struct {
		progType, count uint32
		insns, license  uint64
		logLevel, size  uint32
		log             uint64
		version, flags  uint32
	}{
		progType: typeCgroupDevice, count: uint32(len(prog)),
		insns: uint64(uintptr(unsafe.Pointer(&raw[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, progLoad, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	runtime.KeepAlive(raw)
	runtime.KeepAlive(license)
	if errno != 0 {
		return errno
	}
	defer func() { _ = unix.Close(int(fd)) }() // the group holds it
	dir, err := p.openat(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }() // a folder
	attach := struct{ target, prog, kind, flags uint32 }{uint32(dir), uint32(fd), attachDevice, allowMulti}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, progAttach, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach)); errno != 0 {
		return errno
	}
	return nil
}
