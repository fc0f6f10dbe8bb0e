// Package containertest helps tests of programs that use containers, ours and
// the users': it skips a test where the host lacks what it needs, saying what;
// it compares long texts with golden files; and it takes a census of what a
// process has on the machine, to show that a test left nothing behind.
package containertest
