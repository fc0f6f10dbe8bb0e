//go:build inlay_large

package container_test

// What the launcher is forked from has 100 MiB of memory of its own: CI's stage stress.
import _ "github.com/inlay-dev/inlay/container/testdata/large"
