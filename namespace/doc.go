// Package namespace is the vocabulary of Linux namespaces: their kinds, which
// of them can be joined, clocks, the mapping of ids and the hostname. It does nothing by itself: package container
// takes its values as options, and it compiles them to steps of a plan.
//
// See namespaces(7) and user_namespaces(7).
package namespace
