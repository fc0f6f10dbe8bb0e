// Package fault lets tests make single operations on the host fail, to see that
// nothing is left behind whichever it is.
package fault

import "sync/atomic"

// Hook is asked before an operation on the host, where a test has set it; an error
// is the operation's answer.
var Hook atomic.Pointer[func(op, path string) error]

// At asks the hook.
func At(op, path string) error {
	if h := Hook.Load(); h != nil {
		return (*h)(op, path)
	}
	return nil
}
