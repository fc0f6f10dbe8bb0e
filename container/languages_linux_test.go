package container_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
	"github.com/inlay-dev/inlay/security"
)

// needUsrProgram skips where the host does not have the program where a default
// container sees it: below /usr, not in somebody's home.
func needUsrProgram(t *testing.T, name string) {
	t.Helper()
	for _, dir := range []string{"/usr/local/bin", "/usr/bin"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return
		}
	}
	t.Skipf("needs program %s: it is not below /usr", name)
}

// toolchains are languages that lie in a folder of their own, as a rule, and how each
// tells which.
var toolchains = map[string][]string{"go": {"env", "GOROOT"}, "rustc": {"--print", "sysroot"}}

// toolchain shows a language's folder to the container, wherever the host has it.
func toolchain(t *testing.T, program string, home []string) container.Option {
	t.Helper()
	command, err := exec.LookPath(program)
	if err != nil {
		command = "/usr/local/go/bin/" + program // where Go is, as a rule, and not everybody's PATH has it
	}
	out, err := exec.Command(command, home...).Output()
	if err != nil {
		t.Skipf("needs program %s: %v", program, err)
	}
	dir := strings.TrimSpace(string(out))
	if _, err := exec.LookPath(filepath.Join(dir, "bin", program)); err != nil {
		t.Skipf("needs program %s: %v", program, err)
	}
	return container.Options(container.WithMounts(rootfs.Bind(dir, "/opt/language", rootfs.ReadOnly())), container.WithEnv("PATH=/opt/language/bin:/usr/local/bin:/usr/bin:/bin"))
}

// Languages work in the default root: their libraries, and what of /etc they need
// (alternatives, ld.so.cache, java's and php's own folders).
func TestLanguages(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	const c = "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 6 * 7); }\n"
	const cpp = "#include <iostream>\n#include <vector>\nint main() { std::vector<int> v{20, 22}; std::cout << v[0] + v[1] << std::endl; }\n"
	const java = "public class Main { public static void main(String[] a) throws Exception {\n" +
		"System.out.println(java.util.stream.IntStream.of(20, 22).sum() + java.net.InetAddress.getLoopbackAddress().getHostAddress().length() - 9); } }\n"
	for _, tt := range []struct {
		program string
		file    string // at /tmp
		script  string
	}{
		{"awk", "", "awk 'BEGIN { print 6 * 7 }'"},
		{"cc", c, "cc -O2 -o a -x c file && ./a"},
		{"c++", cpp, "c++ -O1 -o a -x c++ file && ./a"},
		{"python3", "import json, ssl, subprocess, tempfile, threading\nprint(json.loads(subprocess.check_output(['echo', '[42]']))[0])\n", "python3 file"},
		{"perl", "use strict; use List::Util 'sum'; use File::Temp; File::Temp->new; print sum(20, 22), \"\\n\";\n", "perl file"},
		{"java", java, "cp file Main.java && java -Xmx64m -XX:TieredStopAtLevel=1 --source 17 Main.java"},
		{"node", "const fs = require('fs'); fs.writeFileSync('/tmp/x', '42'); console.log(fs.readFileSync('/dev/stdin', 'utf8').trim())\n", "echo 42 | node file"},
		{"git", "", "git init -q r && cd r && echo 42 >f && git add f && git -c user.name=a -c user.email=a@b commit -qm first && git show HEAD:f"},
		{"go", "package main\nfunc main() { c := make(chan int); go func() { c <- 42 }(); println(<-c) }\n", "cp file main.go && GOCACHE=/tmp/cache GOFLAGS=-p=2 GOTOOLCHAIN=local CGO_ENABLED=0 go run main.go"},
		{"rustc", "use std::thread; fn main() { println!(\"{}\", thread::spawn(|| 42).join().unwrap()) }\n", "rustc -o a file && ./a"},
		{"php", "<?php echo array_sum([20, 22]), \"\\n\";", "php file"},
		{"ruby", "require 'json'; require 'tempfile'; Tempfile.create('x') { }; puts JSON.parse('[42]')[0]\n", "ruby file"},
	} {
		t.Run(tt.program, func(t *testing.T) {
			t.Parallel()
			opts := []container.Option{container.WithDir("/tmp"), container.WithFile("/tmp/file", []byte(tt.file), 0o644), sh(tt.script)}
			if home := toolchains[tt.program]; home != nil {
				opts = append(opts, toolchain(t, tt.program, home))
			} else {
				needUsrProgram(t, tt.program)
			}
			if tt.program == "java" {
				if err := exec.Command("java", "--list-modules").Run(); err != nil {
					t.Skipf("needs program java: %v", err)
				}
			}
			require.Equal(t, "42\n", output(t, opts...))
			require.Equal(t, "42\n", output(t, append(opts, container.WithSeccomp(security.Strict()))...), "under the strict profile")
		})
	}
}
