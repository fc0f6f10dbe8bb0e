package network

// OffMain is offMain, for tests.
var OffMain = offMain

// SetPasta sets where pasta is looked for, until its result is called.
func SetPasta(names []string) (undo func()) {
	before := pastaNames
	pastaNames = names
	return func() { pastaNames = before }
}
