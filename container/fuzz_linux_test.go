package container_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

// Whatever a path is, New or Start refuses it with a typed error, or the
// container has the file, and the host has not.
func FuzzPaths(f *testing.F) {
	for _, p := range []string{"/work/in", "/a/../b", "/etc/passwd", "/tmp/x\n", "/var/tmp/deep/er", "/proc/self/x", "/dev/x", "/run/\xff", "/./a//b/", "/usr/x", "/var/run/x", "/lib/../../x", "/a/."} {
		f.Add(p, p)
	}
	mark := []byte("inlay fuzz " + f.Name())
	f.Fuzz(func(t *testing.T, file, mount string) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, before := os.Lstat(file)
		res, err := container.Run(ctx, container.WithFile(file, mark, 0o644), container.WithMounts(rootfs.Tmpfs(mount, rootfs.Size(65536))),
			container.WithCommand("/bin/sh", "-c", `[ -e "$1" ] && [ -d "$2" ]`, "sh", file, mount))
		if err != nil {
			var option *container.OptionError
			var start *container.StartError
			if !errors.As(err, &option) && !errors.As(err, &start) {
				t.Fatalf("no typed error: %v", err)
			}
		} else if !res.Success() && !strings.HasPrefix(filepath.Clean(file), filepath.Clean(mount)+"/") && filepath.Clean(file) != filepath.Clean(mount) {
			t.Fatalf("file %q and mount %q are not both there: %v", file, mount, res)
		}
		if before != nil && strings.HasPrefix(file, "/") {
			if text, err := os.ReadFile(file); err == nil && string(text) == string(mark) {
				t.Fatalf("the host has %q", file)
			}
		}
	})
}
