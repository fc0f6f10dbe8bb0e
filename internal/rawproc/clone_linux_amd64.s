#include "textflag.h"

// func cloneCall(args, size, fn, arg, gp uintptr) (r uintptr)
//
// clone3(2) with a stack of the child's own; the child calls fn(arg), which
// never returns. The child cannot return to the caller: its stack is empty.
TEXT ·cloneCall(SB), NOSPLIT, $0-48
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	fn+16(FP), R12
	MOVQ	arg+24(FP), R13
	MOVQ	gp+32(FP), R9
	MOVQ	$435, AX
	SYSCALL
	TESTQ	AX, AX
	JZ	child
	MOVQ	AX, r+40(FP)
	RET
child:
	// ABIInternal: g in R14, zero in X15, the first argument in AX.
	MOVQ	R9, R14
	XORPS	X15, X15
	XORL	BP, BP
	ANDQ	$~15, SP
	SUBQ	$128, SP
	MOVQ	R13, AX
	CALL	R12
	MOVQ	$231, AX
	MOVQ	$127, DI
	SYSCALL
	INT	$3
