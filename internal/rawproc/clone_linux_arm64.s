#include "textflag.h"

// func cloneCall(args, size, fn, arg, gp uintptr) (r uintptr)
//
// clone3(2) with a stack of the child's own; the child calls fn(arg), which
// never returns. The child cannot return to the caller: its stack is empty.
TEXT ·cloneCall(SB), NOSPLIT|NOFRAME, $0-48
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	fn+16(FP), R9
	MOVD	arg+24(FP), R10
	MOVD	gp+32(FP), R11
	MOVD	$435, R8
	SVC
	CBZ	R0, child
	MOVD	R0, r+40(FP)
	RET
child:
	// ABIInternal: g in R28, the first argument in R0. g is never loaded again:
	// only cgo's callbacks and the race detector's take it from TPIDR_EL0.
	MOVD	R11, g
	MOVD	ZR, R29
	SUB	$128, RSP, R1
	BIC	$15, R1
	MOVD	R1, RSP
	MOVD	R10, R0
	BL	(R9)
	MOVD	$94, R8
	MOVD	$127, R0
	SVC
	BRK
