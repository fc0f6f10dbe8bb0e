package network

// OffMain is offMain, for tests.
var OffMain = offMain
