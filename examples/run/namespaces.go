package main

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace"
)

// namespaceFlags adds Docker's flags of namespaces, with Podman's ns:PATH, of which the
// last of a kind counts; what it returns gives the options, with that of clocks, which
// has two flags, those of unshare(1). network is what was chosen of that kind, where
// bridge is the other flags' business.
func namespaceFlags(f *flag.FlagSet, network *string) func() []container.Option {
	chosen := map[namespace.Kind]container.Option{}
	for name, kind := range map[string]namespace.Kind{
		"network": namespace.Network, "pid": namespace.PID, "ipc": namespace.IPC, "uts": namespace.UTS, "userns": namespace.User, "timens": namespace.Time,
	} {
		fresh := "private"
		switch kind {
		case namespace.Network:
			fresh = "none"
		case namespace.Time:
			fresh = "host" // what a container has without
		default:
		}
		more := ""
		if kind == namespace.Network {
			more = " bridge,"
		}
		f.Func(name, fmt.Sprintf("the %s namespace: `%s`,%s host, ns:PATH, or pid:N for that of a process", kind, fresh, more), func(v string) (err error) {
			if kind == namespace.Network {
				if *network = v; v == "bridge" {
					chosen[kind] = nil
					return nil
				}
			}
			chosen[kind], err = join(kind, v, fresh)
			return err
		})
	}
	var offsets namespace.TimeOffsets
	given := false
	for name, to := range map[string]*time.Duration{"monotonic": &offsets.Monotonic, "boottime": &offsets.Boottime} {
		f.Func(name, "shift the clock CLOCK_"+strings.ToUpper(name)+" by `DUR`, as 24h", func(v string) (err error) {
			*to, err = time.ParseDuration(v)
			given = true
			return err
		})
	}
	return func() []container.Option {
		var opts []container.Option
		for _, kind := range namespace.All() {
			if o := chosen[kind]; o != nil {
				opts = append(opts, o)
			}
		}
		if given {
			opts = append(opts, container.WithTimeOffsets(offsets))
		}
		return opts
	}
}

// join reads where a namespace of the kind is from.
func join(kind namespace.Kind, v, fresh string) (container.Option, error) {
	how, what, _ := strings.Cut(v, ":")
	switch {
	case v == fresh:
		return nil, nil
	case v == "host":
		return container.WithHostNamespace(kind), nil
	case how == "ns":
		return container.WithJoinNamespace(kind, what), nil
	case how == "pid":
		pid, err := strconv.ParseUint(what, 10, 31)
		if err != nil || pid == 0 {
			return nil, errors.New("not pid:N with N the number of a process")
		}
		return container.WithJoinNamespace(kind, fmt.Sprintf("/proc/%d/ns/%s", pid, kind.File())), nil
	case how == "container":
		return nil, errors.New("a container of this command ends with it: name a process of the other by pid:N, or ns:PATH")
	}
	return nil, fmt.Errorf("%s, host, ns:PATH and pid:N are in this version", fresh)
}
