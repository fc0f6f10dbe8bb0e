package security

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Infinity is no limit, RLIM_INFINITY.
const Infinity = math.MaxUint64

// Rlimit is a limit of setrlimit(2) that a job has: the soft one is in force,
// the job may raise it up to the hard one.
type Rlimit struct {
	Name string `json:"name"` // as Docker's --ulimit has it: "nofile"
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// numbers by include/uapi/asm-generic/resource.h.
var rlimits = map[string]int{
	"cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
	"memlock": 8, "as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15,
}

// ParseRlimitName returns the name in Docker's form, from that or from the
// kernel's ("RLIMIT_NOFILE").
func ParseRlimitName(name string) (string, error) {
	short := strings.TrimPrefix(strings.ToLower(name), "rlimit_")
	if _, ok := rlimits[short]; !ok {
		return "", fmt.Errorf("resource limit %q does not exist", name)
	}
	return short, nil
}

// Validate tells what is wrong with the limit.
func (r Rlimit) Validate() error {
	if _, err := ParseRlimitName(r.Name); err != nil {
		return err
	}
	if r.Soft > r.Hard {
		return fmt.Errorf("soft limit %d above the hard limit %d", r.Soft, r.Hard)
	}
	return nil
}

// Number is the kernel's number of the limit; the name must be valid.
func (r Rlimit) Number() int { return rlimits[r.Name] }

// SetRlimits emits one prlimit64(2) for each limit, in a fixed order.
func SetRlimits(b *plan.Builder, list []Rlimit) {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, c Rlimit) int { return a.Number() - c.Number() })
	for _, r := range sorted {
		name := "RLIMIT_" + strings.ToUpper(r.Name)
		b.Prlimit(r.Number(), name, r.Soft, r.Hard)
		b.Hint(name, "a hard limit can only be lowered: the host program's own is the most")
	}
}
