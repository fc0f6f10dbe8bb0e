// Package large makes a program of 100 MiB: its init writes to as much, before the
// launcher begins, which is a copy of this program.
package large

// Size is how many bytes there are.
const Size = 100 << 20

// Memory is written to in every page.
var Memory = make([]byte, Size)

func init() {
	for i := 0; i < len(Memory); i += 4096 {
		Memory[i] = 1
	}
}
