package plan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// The layout that internal/rawproc reads; it has the same numbers.
//
//	header  32 bytes: magic u32, version u32, steps u32, data u32, relocations u32, times u32, 8 reserved
//	steps   80 bytes each: number i32, dst i16, tolerated u16, kinds [6]u8, timed u8, 1 reserved, args [6]u64, errnos [4]u32
//	relocs  u32 each, padded to a multiple of 8
//	data    padded to a multiple of 8
//
// times is 0, or one more than the offset in the data of u64s, one for each step
// and one for the end: CLOCK_MONOTONIC before each step that is timed.
const (
	magic      = 0x31504e49 // "INP1"
	version    = 1
	headerSize = 32
	stepSize   = 80
	// MaxSize is the largest encoded plan: argument lists may be 2 MiB, and
	// files written before the start travel in the plan.
	MaxSize = 64 << 20
)

// ErrEncoding is what [Plan.Encode] and [Validate] wrap.
var ErrEncoding = errors.New("malformed plan")

func pad8(n int) int { return (n + 7) &^ 7 }

// Encode lays the plan out for the interpreter on the given architecture.
// It refuses what the interpreter would refuse.
func (p *Plan) Encode(arch Arch) ([]byte, error) { return p.AppendEncode(nil, arch) }

// AppendEncode is Encode to the end of a buffer, whose length must be a multiple
// of 8.
func (p *Plan) AppendEncode(buf []byte, arch Arch) ([]byte, error) {
	ndata := pad8(len(p.data))
	if p.Timed {
		ndata += 8 * (len(p.Steps) + 1)
	}
	size := headerSize + stepSize*len(p.Steps) + pad8(4*len(p.relocs)) + ndata
	if size > MaxSize {
		return buf, fmt.Errorf("%w: %d bytes, at most %d", ErrEncoding, size, MaxSize)
	}
	before := len(buf)
	buf = slices.Grow(buf, size)[:before+size]
	out := buf[before:]
	clear(out)
	le := binary.LittleEndian
	le.PutUint32(out[0:], magic)
	le.PutUint32(out[4:], version)
	le.PutUint32(out[8:], uint32(len(p.Steps)))
	le.PutUint32(out[12:], uint32(ndata))
	le.PutUint32(out[16:], uint32(len(p.relocs)))
	if p.Timed {
		le.PutUint32(out[20:], uint32(pad8(len(p.data)))+1)
	}
	at := headerSize
	for i, s := range p.Steps {
		if len(s.Tolerate) > 4 {
			return buf[:before], fmt.Errorf("%w: step %d tolerates %d errnos, at most 4", ErrEncoding, i+1, len(s.Tolerate))
		}
		b := out[at : at+stepSize]
		le.PutUint32(b[0:], uint32(s.Call.number(arch)))
		le.PutUint16(b[4:], uint16(int16(s.Dst)))
		le.PutUint16(b[6:], uint16(len(s.Tolerate)))
		for j, a := range s.Args {
			b[8+j] = byte(a.kind)
			le.PutUint64(b[16+8*j:], a.value)
		}
		for j, e := range s.Tolerate {
			le.PutUint32(b[64+4*j:], e)
		}
		if p.Timed && !s.Untimed {
			b[14] = 1
		}
		at += stepSize
	}
	for _, r := range p.relocs {
		le.PutUint32(out[at:], r)
		at += 4
	}
	copy(out[headerSize+stepSize*len(p.Steps)+pad8(4*len(p.relocs)):], p.data)
	return buf, Validate(out)
}

// Validate checks an encoded plan as the interpreter does: sizes that agree,
// offsets inside the data, registers that exist. It is the decoder that fuzzing
// drives, and the last look at a plan before it leaves the host program.
func Validate(b []byte) error {
	le := binary.LittleEndian
	if len(b) < headerSize {
		return fmt.Errorf("%w: %d bytes, a header has %d", ErrEncoding, len(b), headerSize)
	}
	if le.Uint32(b) != magic || le.Uint32(b[4:]) != version {
		return fmt.Errorf("%w: magic %#x, version %d", ErrEncoding, le.Uint32(b), le.Uint32(b[4:]))
	}
	nsteps, ndata, nrelocs := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:])), uint64(le.Uint32(b[16:]))
	want := headerSize + stepSize*nsteps + (4*nrelocs+7)&^7 + ndata
	if want != uint64(len(b)) || want > MaxSize || ndata%8 != 0 {
		return fmt.Errorf("%w: %d bytes, the header says %d", ErrEncoding, len(b), want)
	}
	if times := uint64(le.Uint32(b[20:])); times != 0 && ((times-1)%8 != 0 || times-1+8*(nsteps+1) > ndata) {
		return fmt.Errorf("%w: times at %d of %d bytes", ErrEncoding, times-1, ndata)
	}
	inner := uint64(0) // steps of a child before this one
	for i := range nsteps {
		step := b[headerSize+stepSize*i:]
		if int32(le.Uint32(step)) == numberInside {
			if n := v0(step); argKind(step[8]) != argImm || i < inner || n >= nsteps-i {
				return fmt.Errorf("%w: step %d: %d steps of a child", ErrEncoding, i+1, n)
			}
			inner = i + 1 + v0(step)
			continue
		}
		if err := validateStep(step, ndata); err != nil {
			return fmt.Errorf("%w: step %d: %w", ErrEncoding, i+1, err)
		}
	}
	relocs := b[headerSize+stepSize*nsteps:]
	data := b[uint64(len(b))-ndata:]
	next := uint64(0)
	for i := range nrelocs {
		off := uint64(le.Uint32(relocs[4*i:]))
		// One after another: a word that were relocated twice would be an address the
		// second time, which the interpreter refuses.
		if off%8 != 0 || off < next || off+8 > ndata {
			return fmt.Errorf("%w: relocation %d at %d of %d bytes", ErrEncoding, i+1, off, ndata)
		}
		next = off + 8
		if to := le.Uint64(data[off:]); to >= ndata {
			return fmt.Errorf("%w: relocation %d points to %d of %d bytes", ErrEncoding, i+1, to, ndata)
		}
	}
	return nil
}

// v0 is a step's first argument.
func v0(b []byte) uint64 { return binary.LittleEndian.Uint64(b[16:]) }

func validateStep(b []byte, ndata uint64) error {
	le := binary.LittleEndian
	nr := int32(le.Uint32(b))
	if nr < numberRemount || nr > 1023 {
		return fmt.Errorf("system call %d", nr)
	}
	if dst := int16(le.Uint16(b[4:])); dst < -1 || dst >= MaxRegisters {
		return fmt.Errorf("result to register %d", dst)
	}
	if n := le.Uint16(b[6:]); n > 4 {
		return fmt.Errorf("%d tolerated errnos", n)
	}
	for j := range 6 {
		v := le.Uint64(b[16+8*j:])
		switch argKind(b[8+j]) {
		case argImm:
		case argPtr:
			if v >= ndata {
				return fmt.Errorf("argument %d points to %d of %d bytes", j+1, v, ndata)
			}
		case argReg:
			if v >= MaxRegisters {
				return fmt.Errorf("argument %d is register %d", j+1, v)
			}
		default:
			return fmt.Errorf("argument %d has kind %d", j+1, b[8+j])
		}
	}
	if nr == numberSweep {
		// Texts, which end in the data: their builder adds the NUL, and the data's
		// end is checked by nobody else.
		if argKind(b[8]) != argPtr || argKind(b[9]) != argPtr {
			return fmt.Errorf("a group that is no text")
		}
		return nil
	}
	if nr == numberCopy || nr == numberRemount {
		return nil
	}
	// The interpreter itself touches the data for these two: eight bytes.
	if nr == numberCheck || nr == numberPoke {
		if v := le.Uint64(b[16:]); argKind(b[8]) != argPtr || v%4 != 0 || v > math.MaxInt32 || v+8 > ndata {
			return fmt.Errorf("word at %d of %d bytes", v, ndata)
		}
	}
	return nil
}
