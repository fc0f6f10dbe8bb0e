package rawproc

// Header begins every request of the host, to the launcher and to an init. The
// plans follow, in the message or in a sealed memfd.
type Header struct {
	Op    uint32
	ID    uint32 // of the container, or of the job
	Flags uint32
	FDs   uint32 // descriptors that come with it, in this and following messages
	Size  uint64 // bytes of plans
	// Clone are init's clone flags; of OpSetup the registers of the descriptors that
	// init keeps for OpOpen, each plus one, 12 bits apiece.
	Clone uint64
	// Register is the first descriptor's, the others follow; of OpOpen where the path
	// begins: 0 is the root, n the n-th of those that init keeps.
	Register uint32
	Prepare  uint32 // sizes of the encoded plans, in this order; of OpSetup: shape
	Parent   uint32 // of OpSetup: the container's own half
	Teardown uint32
	Signal   uint32
	ProcReg  uint32 // the register that gets a descriptor of /proc/<init>
	// Cgroup is the group of v2 that the process is born in: of OpSpawn the
	// launcher's number of a descriptor that it holds, of OpJob which of the
	// request's descriptors, from 1; 0 for none.
	Cgroup uint32
	// StepIn is the size of the step-in plan, which comes last; 0: the launcher clones
	// init itself.
	StepIn uint32
}

// HeaderSize is Header's size on the wire.
const HeaderSize = 64

// Operations: of the launcher, then of init.
const (
	OpGo      = 1  // the launcher's own id maps are written; of an init: it may begin
	OpSpawn   = 2  // prepare, clone, parent
	OpHold    = 3  // keep the descriptor until the launcher's end
	OpMore    = 4  // descriptors that had no place in the message before
	OpSetup   = 16 // the child plan
	OpJob     = 17 // an exec plan
	OpSignal  = 18 // to the process group of a job
	OpOpen    = 19 // a file below the root, for reading
	OpKillAll = 20 // everything but init
	OpKill    = 21 // the process whose id in the container Register holds
	OpFiles   = 22 // a process that opens and writes files, at the socket that comes along
	// OpRun is that process's one request: a plan. It is answered with Parent registers
	// from Prepare on, and as descriptors those of them that are not negative.
	OpRun = 32
)

// Answers.
const (
	AnsReady   = 1 // the launcher serves
	AnsMaps    = 2 // the launcher wants its id maps
	AnsSpawned = 3 // with the init's pidfd, or an error
	AnsGone    = 4 // init was reaped
	AnsHeld    = 5
	AnsSetup   = 16
	AnsStarted = 17 // with the job's pidfd, or an error
	AnsExited  = 18
	AnsEmpty   = 19 // nothing but init is left
	AnsOpened  = 20
	AnsFiles   = 21 // with the pidfd of that process, or an error
	AnsRan     = 32
)

// Flags of a request.
const (
	FlagMemfd  = 1   // the first descriptor is a memfd that holds the plans
	FlagMain   = 2   // when this job ends, kill everything and say AnsEmpty
	FlagFinish = 4   // and then end
	FlagQuiet  = 8   // OpSetup: answer failures only
	FlagPath   = 16  // OpOpen: O_PATH
	FlagLink   = 32  // OpOpen: O_NOFOLLOW, the link itself
	FlagWrite  = 256 // OpOpen: O_RDWR
	// FlagState is of OpHold: the plan removes what names all else that is held, and
	// is left out where something of that could not be removed.
	FlagState = 64
	// FlagTrace is of what brings plans: the last descriptor is a file, to which the
	// plans are written back before the answer, the times of their steps in them.
	FlagTrace = 128
	// FlagChain is of OpRun: where the plan before has failed, this one is not begun.
	FlagChain = 512
	// FlagNamespace is of OpOpen: the path names one of init's own namespaces, behind a
	// magic link.
	FlagNamespace = 1024
	// FlagShared is of OpJob and OpKillAll: the PID namespace is not the container's
	// own, and who kills is the host, by a control group.
	FlagShared = 2048
	// FlagTree is of OpOpen: a copy of the mount, attached nowhere and read-only.
	FlagTree = 4096
	// FlagAsIs goes with FlagTree: without mount_setattr(2) who attaches the copy makes it
	// read-only.
	FlagAsIs = 8192
	// FlagSocket is of OpOpen: no file but a socket in init's network namespace, of the
	// domain, type and protocol in Prepare, Parent and Teardown, with the options in
	// StepIn, which listens with the backlog in Signal, or where that is 0 is connected.
	// The address is a struct sockaddr, or with FlagPath a path below the root: to listen,
	// of a folder, and from Register on the name in it. Where it failed is Answer.Step.
	FlagSocket = 16384
	// FlagLast is of OpHold: the plan comes after all others. It does not return where it
	// executes another program.
	FlagLast = 32768
	// FlagLinks is of OpSpawn: links are made for the init's network namespace. The next
	// spare is made after them.
	FlagLinks = 65536
)

// Options of a socket.
const (
	SocketReuse     = 1 // SO_REUSEADDR
	SocketBroadcast = 2 // SO_BROADCAST
	SocketV6Only    = 4 // IPV6_V6ONLY
	SocketV6AndV4   = 8 // IPV6_V6ONLY, off
)

// Where a socket failed, in Answer.Step.
const (
	SocketMade      = 1
	SocketSet       = 2
	SocketBound     = 3
	SocketListens   = 4
	SocketConnected = 5
)

// Where a spawn failed, in Answer.Phase.
const (
	PhasePrepare = 1
	PhaseClone   = 2
	PhaseParent  = 3
	PhaseChild   = 4
	PhaseExec    = 5
	PhaseShape   = 6 // the first half of the child plan
	PhaseStepIn  = 7 // step 0: the process that joins namespaces died
)

// Answer is what launcher and init send.
type Answer struct {
	Op     uint32
	ID     uint32
	Phase  uint32 // where it failed; 0: it did not
	Step   uint32 // the failing step, from 1
	Errno  uint32
	PID    uint32
	Status uint32 // wait status
	// HostPID is the job's id where the answer is read, which init does not know:
	// the reader takes it from the message's credentials. 0: not told.
	HostPID uint32
	Time    int64 // CLOCK_MONOTONIC, nanoseconds: of the start, or of the end
	User    int64 // nanoseconds; of AnsSpawned and AnsStarted: when it was begun
	System  int64
	MaxRSS  int64 // KiB
	MinFlt  int64
	MajFlt  int64
	In      int64 // blocks of 512 bytes
	Out     int64
	Vol     int64 // context switches
	Forced  int64
}

// AnswerSize is Answer's size on the wire.
const AnswerSize = 112

// Limits of one message.
const (
	MaxInline = 60 << 10 // above it, plans travel in a memfd
	MaxFDs    = 200      // in one message: the kernel takes 253
	MaxJobs   = 1024     // running at once in one container
	MaxKids   = 8192     // containers of one launcher
	// MaxRequestFDs is how many descriptors one request may bring.
	MaxRequestFDs = 1500
)

// Descriptors of the launcher: below FirstTransient they live as long as it.
const (
	ControlFD      = 3
	signalFD       = 4
	FirstHeld      = 5
	spareChannel   = 29
	sparePidfd     = 30
	FirstGroup     = 32 // control groups that inits are born in
	FirstTransient = 48
	// MaxStates and MaxGroups are how many requests to hold a launcher takes.
	MaxStates = 8
	MaxGroups = FirstTransient - FirstGroup
	MaxHeld   = MaxStates + MaxGroups + 1 // and a last one
)

// Descriptors of init.
const (
	initSocket = 3
	initSignal = 4
	initKept   = 5 // and on: at most MaxKept folders
	// MaxKept is how many folders beside the root an init can open files in.
	MaxKept  = 5
	keptBits = 12
	keptAt   = 64 // where they wait until their place is free
	// filesKept is the one that a process of OpFiles keeps from one plan to the next.
	filesKept = 4
)

// Kept is Header.Clone of OpSetup for these registers.
func Kept(registers []int) (list uint64) {
	for i, r := range registers {
		list |= uint64(r+1) << (keptBits * i)
	}
	return list
}
