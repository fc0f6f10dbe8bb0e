package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// parsed is a flag whose value one function reads and one option takes.
func parsed[T any, O container.Option](parse func(string) (T, error), with func(T) O) func(string) (container.Option, error) {
	return func(v string) (container.Option, error) {
		n, err := parse(v)
		return with(n), err
	}
}

func float(v string) (float64, error) { return strconv.ParseFloat(v, 64) }

func integer(v string) (int64, error) { return strconv.ParseInt(v, 10, 64) }

// size reads bytes, with Docker's suffixes.
func size(v string) (int64, error) {
	unit, number := int64(1), strings.ToLower(v)
	for suffix, n := range map[string]int64{"b": 1, "k": container.KiB, "m": container.MiB, "g": container.GiB} {
		if rest, ok := strings.CutSuffix(number, suffix); ok {
			unit, number = n, rest
			break
		}
	}
	n, err := integer(number)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a number of bytes like 64m", v)
	}
	return n * unit, nil
}

func volume(v string) (container.Option, error) {
	part := strings.Split(v, ":")
	if len(part) < 2 || len(part) > 3 || part[0] == "" {
		return nil, errors.New("not SRC:DST[:ro]")
	}
	source, err := filepath.Abs(part[0])
	if err != nil {
		return nil, err
	}
	var how []rootfs.MountOption
	if len(part) == 3 {
		switch part[2] {
		case "ro":
			how = append(how, rootfs.ReadOnly())
		case "rw":
		default:
			return nil, fmt.Errorf("%q is neither ro nor rw", part[2])
		}
	}
	return container.WithMounts(rootfs.Bind(source, part[1], how...)), nil
}

func tmpfs(v string) (container.Option, error) {
	target, option, given := strings.Cut(v, ":")
	var how []rootfs.MountOption
	if given {
		number, ok := strings.CutPrefix(option, "size=")
		if !ok {
			return nil, errors.New("not DST[:size=N]")
		}
		n, err := size(number)
		if err != nil {
			return nil, err
		}
		how = append(how, rootfs.Size(n))
	}
	return container.WithMounts(rootfs.Tmpfs(target, how...)), nil
}

func user(v string) (container.Option, error) {
	u, g, given := strings.Cut(v, ":")
	uid, err := strconv.ParseUint(u, 10, 32)
	if err != nil {
		return nil, errors.New("not UID[:GID] in numbers")
	}
	gid := uint64(0)
	if given {
		if gid, err = strconv.ParseUint(g, 10, 32); err != nil {
			return nil, errors.New("not UID[:GID] in numbers")
		}
	}
	return container.WithUser(uint32(uid), uint32(gid)), nil
}

// setNetwork keeps the last of several: a door that one opened, the next closes.
func (r *request) setNetwork(v string) error {
	switch v {
	case "none":
		r.network = nil
	case "host":
		r.network = container.WithHostNamespace(namespace.Network)
	default:
		return errors.New("none and host are in this version")
	}
	return nil
}

func capability(v string) (container.Option, error) {
	if strings.EqualFold(v, "all") {
		return container.WithCapabilities(security.AllCapabilities()...), nil
	}
	return container.WithCapabilities(v), nil
}

func ulimit(v string) (container.Option, error) {
	name, limits, ok := strings.Cut(v, "=")
	if !ok {
		return nil, errors.New("not name=soft[:hard]")
	}
	s, h, given := strings.Cut(limits, ":")
	if !given {
		h = s
	}
	soft, err := limit(s)
	if err != nil {
		return nil, err
	}
	hard, err := limit(h)
	return container.WithRlimit(name, soft, hard), err
}

func limit(v string) (uint64, error) {
	if v == "-1" {
		return security.Infinity, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a limit: a number, or -1 for none", v)
	}
	return n, nil
}

// defineMemory defines Docker's two flags, of which the second is a sum.
func (r *request) defineMemory() {
	f := r.flags
	f.Func("memory", "cap memory at `N` bytes, with k, m or g", func(v string) (err error) {
		r.memory, err = size(v)
		r.opts = append(r.opts, container.WithMemoryLimit(r.memory))
		return err
	})
	f.Func("memory-swap", "cap memory and swap together at `N` bytes", func(v string) (err error) {
		r.both, err = size(v)
		return err
	})
}

func (r *request) checkMemory() error {
	if r.both == 0 {
		return nil
	}
	if r.memory == 0 || r.both < r.memory {
		return errors.New("--memory-swap is the sum of memory and swap: it needs a --memory that is not above it")
	}
	r.opts = append(r.opts, container.WithSwapLimit(r.both-r.memory))
	return nil
}
