package container

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is mounted below a folder is told from the folder.
func TestElsewhere(t *testing.T) {
	root, err := openHostFolder("/")
	require.NoError(t, err)
	defer func() { require.NoError(t, root.Close()) }()
	for name, want := range map[string]bool{".": false, "proc": true} {
		d, err := root.Open(name)
		require.NoError(t, err)
		got, err := root.elsewhere(d)
		require.NoError(t, err)
		require.Equal(t, want, got, name)
		require.NoError(t, d.Close())
	}
}
