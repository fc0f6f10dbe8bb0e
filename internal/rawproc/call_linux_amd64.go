package rawproc

// Numbers that package syscall does not have for every architecture.
const (
	sysCopyFileRange = 326
	sysStatx         = 332
	sysSetns         = 308
)
