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
//	header  32 bytes: magic u32, version u32, steps u32, data u32, relocations u32, 12 reserved
//	steps   80 bytes each: number i32, dst i16, tolerated u16, kinds [6]u8, 2 reserved, args [6]u64, errnos [4]u32
//	relocs  u32 each, padded to a multiple of 8
//	data    padded to a multiple of 8
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
	size := headerSize + stepSize*len(p.Steps) + pad8(4*len(p.relocs)) + pad8(len(p.data))
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
	le.PutUint32(out[12:], uint32(pad8(len(p.data))))
	le.PutUint32(out[16:], uint32(len(p.relocs)))
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
	for i := range nsteps {
		if err := validateStep(b[headerSize+stepSize*i:], ndata); err != nil {
			return fmt.Errorf("%w: step %d: %w", ErrEncoding, i+1, err)
		}
	}
	relocs := b[headerSize+stepSize*nsteps:]
	data := b[uint64(len(b))-ndata:]
	for i := range nrelocs {
		off := uint64(le.Uint32(relocs[4*i:]))
		if off%8 != 0 || off+8 > ndata {
			return fmt.Errorf("%w: relocation %d at %d of %d bytes", ErrEncoding, i+1, off, ndata)
		}
		if to := le.Uint64(data[off:]); to >= ndata {
			return fmt.Errorf("%w: relocation %d points to %d of %d bytes", ErrEncoding, i+1, to, ndata)
		}
	}
	return nil
}

func validateStep(b []byte, ndata uint64) error {
	le := binary.LittleEndian
	nr := int32(le.Uint32(b))
	if nr < numberSweep || nr > 1023 {
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
	// The interpreter itself touches the data for these two: eight bytes.
	if nr < 0 {
		if v := le.Uint64(b[16:]); argKind(b[8]) != argPtr || v%4 != 0 || v > math.MaxInt32 || v+8 > ndata {
			return fmt.Errorf("word at %d of %d bytes", v, ndata)
		}
	}
	return nil
}
