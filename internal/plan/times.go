package plan

import (
	"encoding/binary"
	"fmt"
)

// Times reads a timed plan's times out of what it is encoded to, after it was run:
// nanoseconds, before each step and after the last. 0 is a time that was not taken.
func (p *Plan) Times(encoded []byte) ([]int64, error) {
	le := binary.LittleEndian
	size := 8 * (len(p.Steps) + 1)
	if !p.Timed || len(encoded) < headerSize+size || int(le.Uint32(encoded[8:])) != len(p.Steps) {
		return nil, fmt.Errorf("%w: %d bytes are no timed plan of %d steps", ErrEncoding, len(encoded), len(p.Steps))
	}
	// They are the last of the data.
	list := make([]int64, len(p.Steps)+1)
	for i := range list {
		list[i] = int64(le.Uint64(encoded[len(encoded)-size+8*i:]))
	}
	return list, nil
}
