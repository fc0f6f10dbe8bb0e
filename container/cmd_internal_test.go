package container

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// From Wait's end on, the reader in Stdin is its owner's alone.
func TestSourceEnds(t *testing.T) {
	buf := bytes.NewBufferString("some text")
	s := newSource(buf)
	b := make([]byte, 4)
	n, err := s.Read(b)
	require.NoError(t, err)
	require.Equal(t, "some", string(b[:n]))
	require.NoError(t, s.end(time.Hour))
	_, err = s.Read(b)
	require.Equal(t, io.EOF, err)
	require.Equal(t, " text", buf.String())

	// One that blocks is not waited for, beyond what was said.
	s = newSource(buf)
	<-s.turn // as Read has it
	require.NoError(t, s.end(time.Millisecond))
}

func TestSourceKeepsItsError(t *testing.T) {
	bad := errors.New("bad")
	s := newSource(iotest.ErrReader(bad))
	_, err := s.Read(nil)
	require.Equal(t, bad, err)
	require.Equal(t, bad, s.end(time.Hour))
	s = newSource(iotest.DataErrReader(bytes.NewBufferString("x")))
	_, err = s.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.NoError(t, s.end(time.Hour))
}
