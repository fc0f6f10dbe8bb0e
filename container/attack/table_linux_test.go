package attack

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// attacks are all of them.
var attacks = withLayers(slices.Concat(attacksInC, attacksInGo, attacksOnLayers))

// elsewhere are those that a default container is not to hold: tests of their own
// run them.
var elsewhere = slices.Concat(attacksOnLandlock, attacksOnNeighbours)

// The table has what the programs have.
func TestTable(t *testing.T) {
	p := attackPrograms(t)
	out, err := exec.Command(p.c, "-l").Output()
	require.NoError(t, err)
	var c, golang, names []string
	for _, a := range slices.Concat(attacks, elsewhere) {
		if a.c {
			c = append(c, a.name)
		} else {
			golang = append(golang, a.name)
		}
	}
	require.ElementsMatch(t, strings.Fields(string(out)), c)
	for name := range inGo {
		if !slices.Contains(unlisted, name) {
			names = append(names, name)
		}
	}
	require.ElementsMatch(t, names, golang)
	require.GreaterOrEqual(t, len(attacks), 80)
}
