package rawproc

// Numbers that package syscall does not have for every architecture.
const (
	sysCopyFileRange = 285
	sysStatx         = 291
	sysSetns         = 268
)
