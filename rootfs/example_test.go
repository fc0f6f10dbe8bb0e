package rootfs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing/fstest"

	"github.com/inlay-dev/inlay/rootfs"
)

// The host's programs, and of its /etc the certificates alone.
func ExampleHost() {
	root := rootfs.Host(rootfs.Etc("ssl", "ca-certificates"))
	fmt.Println(root.Type, root.EtcNames, root.Validate())

	// Output:
	// host [ssl ca-certificates] <nil>
}

// A folder is the root as it is: read-only, unless Writable is given.
func ExampleDir() {
	fmt.Println(rootfs.Dir("/srv/alpine").Validate())
	fmt.Println(rootfs.Dir("alpine").Validate())

	// Output:
	// <nil>
	// path "alpine" is relative: make it absolute, filepath.Abs does
}

// A root of the container's own, with the files that the program brings along: here those
// of a map, in a program those of an embed.FS.
func ExampleFS() {
	files := fstest.MapFS{"bin/tool": {Data: []byte("a static program")}, "etc/tool.conf": {Data: []byte("on = true\n")}}
	root := rootfs.FS(files, rootfs.Executable("bin/*"), rootfs.Size(16<<20))
	tree, err := root.Read(context.Background(), io.Discard)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range tree.Entries {
		if e.Kind == 'f' {
			fmt.Printf("%s: mode %o, %d bytes\n", e.Path, e.Mode, e.Size)
		}
	}
	_, err = rootfs.FS(files, rootfs.Size(4096)).Read(context.Background(), io.Discard)
	fmt.Println(err)

	// Output:
	// bin/tool: mode 555, 16 bytes
	// etc/tool.conf: mode 444, 10 bytes
	// "etc/tool.conf": more than the root may hold (raise it by rootfs.Size and rootfs.Inodes)
}

// A mount is data: it can be printed and stored.
func ExampleBind() {
	text, err := json.Marshal(rootfs.Bind("/srv/data", "/data", rootfs.ReadOnly(), rootfs.NoExec()))
	fmt.Println(string(text), err)

	// Output:
	// {"type":"bind","source":"/srv/data","target":"/data","read_only":true,"no_exec":true} <nil>
}

func ExampleTmpfs() {
	m := rootfs.Tmpfs("/cache", rootfs.Size(16<<20))
	fmt.Printf("%s: %d bytes, %d files, mode %o\n", m.Target, m.Size, m.Inodes, m.Mode)
	fmt.Println(rootfs.Tmpfs("/", rootfs.Size(16<<20)).Validate())

	// Output:
	// /cache: 16777216 bytes, 65536 files, mode 1777
	// target "/": the root is set by WithRoot
}

// What the host's root never shows of /etc, whoever may read it.
func ExampleEtcDenied() {
	fmt.Println(slices.Contains(rootfs.EtcDenied(), "shadow"), slices.Contains(rootfs.EtcDenied(), "ssh"))

	// Output:
	// true true
}
