package container_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/security"
)

// Calls of x32 and of 32-bit programs, which no profile looks at, end the process,
// under every profile.
func TestForeignCalls(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	needUsrProgram(t, "cc")
	const program = `#include <stdio.h>
#include <unistd.h>
int main(int n, char **v) {
	long r = 20;
	if (n > 1)
		__asm__ volatile("int $0x80" : "+a"(r));
	else
		r = syscall(0x40000000 | 39);
	printf("%ld\n", r);
}
`
	for name, profile := range map[string]*security.Seccomp{"default": nil, "strict": security.Strict()} {
		for _, arg := range []string{"", "i386"} {
			t.Run(name+arg, func(t *testing.T) {
				res, err := container.Run(timeout(t), container.WithDir("/tmp"), container.WithFile("/tmp/a.c", []byte(program), 0o644),
					container.WithSeccomp(profile), sh("cc -o a a.c && exec ./a "+arg))
				require.NoError(t, err)
				require.Equal(t, container.SyscallRefused, res.Status, "%v", res)
			})
		}
	}
}
