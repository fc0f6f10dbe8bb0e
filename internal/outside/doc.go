// Package outside stands for the world in tests of networks: a network namespace beyond
// the one of the host that the tests play, and what answers there. It is linked by tests
// alone.
package outside
