package container_test

import (
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/namespace"
)

// namespacesOfThreads are the namespaces that this program's threads are in.
func namespacesOfThreads(t *testing.T) map[string]bool {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/*")
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil { // a thread may have ended
			seen[to] = true
		}
	}
	return seen
}

// The host program never changes itself: no thread of it is ever in another namespace,
// whatever containers have.
func TestThreadsStayInTheirNamespaces(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	before := namespacesOfThreads(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				c, err := container.New(container.WithCommand("/bin/true"), container.WithHostNamespace(namespace.UTS))
				if err == nil {
					err = c.Start(timeout(t))
				}
				if err == nil {
					_, err = c.Wait(timeout(t))
				}
				if err == nil {
					err = c.Close()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	after := namespacesOfThreads(t)
	require.Equal(t, before, after, "%v", maps.Keys(after))
}
