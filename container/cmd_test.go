package container_test

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
)

// What a Cmd tells before it starts, on any system.
func TestCmdBeforeStart(t *testing.T) {
	c := container.Command("go", "build", "./...")
	require.Equal(t, "go", c.Path)
	require.Equal(t, []string{"go", "build", "./..."}, c.Args)
	require.NoError(t, c.Err)
	require.Nil(t, c.Env)
	require.Nil(t, c.Cancel)
	require.Equal(t, "go build ./...", c.String())
	require.Equal(t, "/bin/true", (&container.Cmd{Path: "/bin/true"}).String())
	require.Empty(t, new(container.Cmd).String())
	require.EqualError(t, new(container.Cmd).Run(), "exec: no command")
	require.NotNil(t, container.CommandContext(t.Context(), "true").Cancel)

	err := c.Wait()
	require.EqualError(t, err, "exec: not started")
	require.ErrorIs(t, err, container.ErrNotStarted)
	c.Err = errors.New("no")
	require.Equal(t, c.Err, c.Start())
	err = c.Start()
	require.EqualError(t, err, "exec: already started")
	require.ErrorIs(t, err, container.ErrStarted)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, context.Canceled, container.CommandContext(ctx, "true").Run())

	// A request that is wrong is refused before anything is looked at.
	c = container.Command("true", "NUL \x00")
	var fault *container.OptionError
	require.ErrorAs(t, c.Run(), &fault)
	c = container.Command("true")
	c.Path = "/bin/true\x00"
	require.ErrorAs(t, c.Run(), &fault)
	require.Equal(t, "Cmd.Path", fault.Option)
	c = container.Command("true")
	c.Dir = "relative"
	require.ErrorAs(t, c.Run(), &fault)
	require.Equal(t, "WithDir", fault.Option)

	if runtime.GOOS != "linux" {
		require.ErrorIs(t, container.Command("true").Run(), errors.ErrUnsupported)
	}
}

// Nothing of the host's is in it; Env, where it is set, is all of it.
func TestCmdEnviron(t *testing.T) {
	t.Setenv("SECRET", "of the host")
	defaults := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LANG=C.UTF-8", "TERM=dumb"}
	for _, tt := range []struct {
		name    string
		env     []string
		dir     string
		options []container.Option
		want    []string
	}{
		{name: "nil", want: defaults},
		{name: "nil and Dir", dir: "/work", want: append(defaults[:4:4], "PWD=/work")},
		{name: "nil and an option", options: []container.Option{container.WithEnv("A=1")}, want: append(defaults[:4:4], "A=1")},
		{name: "empty", env: []string{}, want: []string{}},
		{name: "set", env: []string{"A=1", "B=2", "A=3"}, dir: "/work", want: []string{"A=3", "B=2"}},
		{name: "set, and an option", env: []string{"A=1", "B=2"}, options: []container.Option{container.WithEnv("A=3"), container.WithHostname("x")}, want: []string{"A=3", "B=2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := container.Command("env")
			c.Env, c.Dir, c.Options = tt.env, tt.dir, tt.options
			require.Equal(t, tt.want, c.Environ())
		})
	}
}
