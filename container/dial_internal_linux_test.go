package container

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/launcher"
)

// What init sends is looked at: another socket, or none, is not handed on.
func TestVerifySocket(t *testing.T) {
	tcp := launcher.SocketRequest{Domain: unix.AF_INET, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_TCP}
	made := func(domain, kind, protocol int) int {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
		return fd
	}
	stream := made(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	require.NoError(t, verify(stream, &tcp))
	listening := tcp
	listening.Backlog = 1
	require.ErrorContains(t, verify(stream, &listening), "SO_ACCEPTCONN is 0, not 1")
	require.NoError(t, unix.Listen(stream, 1))
	require.NoError(t, verify(stream, &listening))
	require.ErrorContains(t, verify(stream, &tcp), "SO_ACCEPTCONN is 1, not 0")
	require.ErrorContains(t, verify(made(unix.AF_UNIX, unix.SOCK_STREAM, 0), &tcp), "SO_DOMAIN is 1, not 2")
	require.ErrorContains(t, verify(made(unix.AF_INET, unix.SOCK_DGRAM, 0), &tcp), "SO_TYPE is 2, not 1")
	var pipe [2]int
	require.NoError(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	defer func() { require.NoError(t, errors.Join(unix.Close(pipe[0]), unix.Close(pipe[1]))) }()
	require.ErrorIs(t, verify(pipe[0], &tcp), unix.ENOTSOCK)
}
