package rawproc

// Header begins every request of the host, to the launcher and to an init. The
// plans follow, in the message or in a sealed memfd.
type Header struct {
	Op       uint32
	ID       uint32 // of the container, or of the job
	Flags    uint32
	FDs      uint32 // descriptors that come with it, in this and following messages
	Size     uint64 // bytes of plans
	Clone    uint64 // clone flags of init
	Register uint32 // the first descriptor's register, the others follow
	Prepare  uint32 // sizes of the encoded plans, in this order; of OpSetup: shape
	Parent   uint32 // of OpSetup: the container's own half
	Teardown uint32
	Signal   uint32
	ProcReg  uint32 // the register that gets a descriptor of /proc/<init>
	// Cgroup is the group of v2 that the process is born in: of OpSpawn the
	// launcher's number of a descriptor that it holds, of OpJob which of the
	// request's descriptors, from 1; 0 for none.
	Cgroup uint32
	_      uint32
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
)

// Flags of a request.
const (
	FlagMemfd  = 1 // the first descriptor is a memfd that holds the plans
	FlagMain   = 2 // when this job ends, kill everything and say AnsEmpty
	FlagFinish = 4 // and then end
	FlagQuiet  = 8 // OpSetup: answer failures only
)

// Where a spawn failed, in Answer.Phase.
const (
	PhasePrepare = 1
	PhaseClone   = 2
	PhaseParent  = 3
	PhaseChild   = 4
	PhaseExec    = 5
	PhaseShape   = 6 // the first half of the child plan
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
	_      uint32
	Time   int64 // CLOCK_MONOTONIC, nanoseconds: of the start, or of the end
	User   int64 // nanoseconds
	System int64
	MaxRSS int64 // KiB
	MinFlt int64
	MajFlt int64
	In     int64 // blocks of 512 bytes
	Out    int64
	Vol    int64 // context switches
	Forced int64
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
	MaxHeld   = MaxStates + MaxGroups
)

// Descriptors of init.
const (
	initSocket = 3
	initSignal = 4
)
