//go:build !linux

package container

import "io"

func (j *copying) copyOut(string, string) error { return errPlatform }

func (j *copying) copyIn(string, string) error { return errPlatform }

func (j *copying) tarOut(io.Writer, string) error { return errPlatform }

func (j *copying) tarIn(io.Reader, string) error { return errPlatform }
