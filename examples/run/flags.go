package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

func volume(v string) (container.Option, error) {
	part := strings.Split(v+":rw", ":")
	if len(part) < 3 || len(part) > 4 || part[0] == "" || part[2] != "ro" && part[2] != "rw" {
		return nil, errors.New("not SRC:DST[:ro]")
	}
	source, err := filepath.Abs(part[0])
	mount := rootfs.Bind(source, part[1])
	mount.ReadOnly = part[2] == "ro"
	return container.WithMounts(mount), err
}

// root is a folder of the host, or what an archive holds.
func root(path string, readOnly bool) (container.Option, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(path); err != nil || st.IsDir() {
		if readOnly {
			return container.WithRoot(rootfs.Dir(path)), nil // Start tells what is wrong with it
		}
		return container.WithRoot(rootfs.Overlay(path)), nil
	}
	var opts []rootfs.RootOption
	if readOnly {
		opts = append(opts, rootfs.ReadOnly())
	}
	return container.WithRoot(rootfs.Tar(path, opts...)), nil
}

// device reads SRC[:DST][:rwm]: a second part of those letters alone is no path.
func device(v string) (container.Option, error) {
	part := strings.Split(v, ":")
	if len(part) == 2 && strings.Trim(part[1], "rwm") == "" {
		part = []string{part[0], "", part[1]}
	}
	part = append(part, "", "")
	if len(part) > 5 || part[0] == "" {
		return nil, errors.New("not SRC[:DST][:rwm]")
	}
	return container.WithDevice(part[0], part[1], part[2]), nil
}

func tmpfs(v string) (container.Option, error) {
	target, option, given := strings.Cut(v, ":")
	if !given {
		return container.WithMounts(rootfs.Tmpfs(target)), nil
	}
	number, ok := strings.CutPrefix(strings.ToLower(option), "size=")
	n, err := size(number)
	if !ok || err != nil {
		return nil, errors.New("not DST[:size=N] with N a number of bytes like 64m")
	}
	return container.WithMounts(rootfs.Tmpfs(target, rootfs.Size(n))), nil
}

// size reads a number of bytes like 64m.
func size(v string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(v), "bkmg")
	n, err := strconv.ParseInt(digits, 10, 64)
	unit, known := map[string]int64{"": 1, "b": 1, "k": container.KiB, "m": container.MiB, "g": container.GiB}[strings.ToLower(v)[len(digits):]]
	if err != nil || !known || n < 0 || n > 1<<62/unit {
		return 0, errors.New("not a number of bytes like 64m")
	}
	return n * unit, nil
}

func sysctl(v string) (container.Option, error) {
	name, value, ok := strings.Cut(v, "=")
	if !ok {
		return nil, errors.New("not NAME=VALUE")
	}
	return container.WithSysctl(name, value), nil
}

func ulimit(v string) (container.Option, error) {
	name, limits, ok := strings.Cut(v, "=")
	part := strings.Split(limits, ":")
	var n [2]uint64
	for i := range n {
		// -1 is none: all bits are set.
		number, err := strconv.ParseInt(part[min(i, len(part)-1)], 10, 64)
		if !ok || err != nil || number < -1 || len(part) > 2 {
			return nil, errors.New("not name=soft[:hard], in numbers or -1 for none")
		}
		n[i] = uint64(number)
	}
	return container.WithRlimit(name, n[0], n[1]), nil
}
