package plan

import "fmt"

// Arch is an architecture in GOARCH's words. System call numbers and a few
// flags differ between them.
type Arch string

// The architectures that a plan can be encoded for.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// Call is a system call, or one of the things that the interpreter does itself:
// comparing, storing, removing groups, holding a namespace, copying, having a child
// do steps, and changing mounts where mount_setattr(2) is missing.
type Call int

// The calls, by the names of their man pages.
const (
	callCheck   Call = iota + 1 // compare a word of the data; not a system call
	callPoke                    // store a register in the data; not a system call
	callSweep                   // remove a control group with all below it; not a system call
	callHolder                  // clone a process that holds a new user namespace; not only a system call
	callRelease                 // end it; not only a system call
	callCopy                    // copy bytes between files; not one system call
	callInside                  // have a child do the steps that follow; a clone3(2) with what belongs to it
	callRemount                 // change a mount, and those below it; not one system call
	callRead
	callWrite
	callClose
	callIoctl
	callSocket
	callSetsid
	callUmask
	callFchmod
	callFchown
	callFchdir
	callChdir
	callChroot
	callSethostname
	callSetdomainname
	callUmount2
	callPivotRoot
	callPrctl
	callSeccomp
	callSetgroups
	callSetresuid
	callSetresgid
	callSetfsuid
	callSetfsgid
	callCapset
	callKeyctl
	callUnshare
	callSigprocmask
	callMkdirat
	callOpenat
	callOpenat2
	callSymlinkat
	callUnlinkat
	callLinkat
	callRenameat2
	callUtimensat
	callFtruncate
	callDup3
	callFcntl
	callPrlimit
	callExecveat
	callExecve
	callStatx
	callFstatfs
	callGetcwd
	callCloseRange
	callOpenTree
	callMoveMount
	callFsopen
	callFsconfig
	callFsmount
	callMountSetattr
	callMount
	callSetns
	callFlock
	callSetitimer
	callSchedSetscheduler
	callSchedSetaffinity
	callLandlockCreateRuleset
	callLandlockAddRule
	callLandlockRestrictSelf
	callSendfile
	callMknodat
	callFchownat
	callFchmodat
	callEnd
)

// number is what the interpreter takes for its own calls.
const (
	numberCheck   = -1
	numberPoke    = -2
	numberSweep   = -3
	numberHolder  = -4
	numberRelease = -5
	numberCopy    = -6
	numberInside  = -7
	numberRemount = -9
)

// numbers by arch/x86/entry/syscalls/syscall_64.tbl and
// include/uapi/asm-generic/unistd.h.
var calls = [callEnd]struct {
	name         string
	amd64, arm64 int32
}{
	callCheck:             {"check", numberCheck, numberCheck},
	callPoke:              {"poke", numberPoke, numberPoke},
	callSweep:             {"sweep", numberSweep, numberSweep},
	callHolder:            {"clone3", numberHolder, numberHolder},
	callRelease:           {"kill", numberRelease, numberRelease},
	callCopy:              {"copy", numberCopy, numberCopy},
	callInside:            {"clone3", numberInside, numberInside},
	callRemount:           {"mount", numberRemount, numberRemount},
	callRead:              {"read", 0, 63},
	callWrite:             {"write", 1, 64},
	callClose:             {"close", 3, 57},
	callIoctl:             {"ioctl", 16, 29},
	callSocket:            {"socket", 41, 198},
	callSetsid:            {"setsid", 112, 157},
	callUmask:             {"umask", 95, 166},
	callFchmod:            {"fchmod", 91, 52},
	callFchown:            {"fchown", 93, 55},
	callFchdir:            {"fchdir", 81, 50},
	callChdir:             {"chdir", 80, 49},
	callChroot:            {"chroot", 161, 51},
	callSethostname:       {"sethostname", 170, 161},
	callSetdomainname:     {"setdomainname", 171, 162},
	callUmount2:           {"umount2", 166, 39},
	callPivotRoot:         {"pivot_root", 155, 41},
	callPrctl:             {"prctl", 157, 167},
	callSeccomp:           {"seccomp", 317, 277},
	callSetgroups:         {"setgroups", 116, 159},
	callSetresuid:         {"setresuid", 117, 147},
	callSetresgid:         {"setresgid", 119, 149},
	callSetfsuid:          {"setfsuid", 122, 151},
	callSetfsgid:          {"setfsgid", 123, 152},
	callCapset:            {"capset", 126, 91},
	callKeyctl:            {"keyctl", 250, 219},
	callUnshare:           {"unshare", 272, 97},
	callSigprocmask:       {"rt_sigprocmask", 14, 135},
	callMkdirat:           {"mkdirat", 258, 34},
	callOpenat:            {"openat", 257, 56},
	callOpenat2:           {"openat2", 437, 437},
	callSymlinkat:         {"symlinkat", 266, 36},
	callUnlinkat:          {"unlinkat", 263, 35},
	callLinkat:            {"linkat", 265, 37},
	callRenameat2:         {"renameat2", 316, 276},
	callUtimensat:         {"utimensat", 280, 88},
	callFtruncate:         {"ftruncate", 77, 46},
	callDup3:              {"dup3", 292, 24},
	callFcntl:             {"fcntl", 72, 25},
	callPrlimit:           {"prlimit64", 302, 261},
	callExecveat:          {"execveat", 322, 281},
	callExecve:            {"execve", 59, 221},
	callStatx:             {"statx", 332, 291},
	callFstatfs:           {"fstatfs", 138, 44},
	callGetcwd:            {"getcwd", 79, 17},
	callCloseRange:        {"close_range", 436, 436},
	callOpenTree:          {"open_tree", 428, 428},
	callMoveMount:         {"move_mount", 429, 429},
	callFsopen:            {"fsopen", 430, 430},
	callFsconfig:          {"fsconfig", 431, 431},
	callFsmount:           {"fsmount", 432, 432},
	callMountSetattr:      {"mount_setattr", 442, 442},
	callMount:             {"mount", 165, 40},
	callSetns:             {"setns", 308, 268},
	callFlock:             {"flock", 73, 32},
	callSetitimer:         {"setitimer", 38, 103},
	callSchedSetscheduler: {"sched_setscheduler", 144, 119},
	callSchedSetaffinity:  {"sched_setaffinity", 203, 122},

	callLandlockCreateRuleset: {"landlock_create_ruleset", 444, 444},
	callLandlockAddRule:       {"landlock_add_rule", 445, 445},
	callLandlockRestrictSelf:  {"landlock_restrict_self", 446, 446},

	callSendfile: {"sendfile", 40, 71},
	callMknodat:  {"mknodat", 259, 33},
	callFchownat: {"fchownat", 260, 54},
	callFchmodat: {"fchmodat", 268, 53},
}

// String returns the call's name as its man page has it.
func (c Call) String() string {
	if c <= 0 || c >= callEnd {
		return fmt.Sprintf("call(%d)", int(c))
	}
	return calls[c].name
}

func (c Call) number(a Arch) int32 {
	if a == ARM64 {
		return calls[c].arm64
	}
	return calls[c].amd64
}
