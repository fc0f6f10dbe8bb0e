package namespace

import (
	"fmt"
	"math"
	"strings"

	"github.com/inlay-dev/inlay/internal/plan"
)

// IDMap maps a range of ids inside a container to ids of the host, as one line
// of /proc/PID/uid_map does, user_namespaces(7).
type IDMap struct {
	ContainerID uint32 `json:"container_id"`
	HostID      uint32 `json:"host_id"`
	Size        uint32 `json:"size"`
}

// maxLines is how many lines the kernel takes (UID_GID_MAP_MAX_EXTENTS).
const maxLines = 340

// ValidateIDMaps tells what is wrong with a list of maps: an empty one, ranges
// that overlap on either side, ids above 2³²−2.
func ValidateIDMaps(maps []IDMap) error {
	if len(maps) == 0 {
		return fmt.Errorf("no id is mapped")
	}
	if len(maps) > maxLines {
		return fmt.Errorf("%d ranges, the kernel takes %d", len(maps), maxLines)
	}
	for i, m := range maps {
		if m.Size == 0 {
			return fmt.Errorf("range %d is empty", i+1)
		}
		if uint64(m.ContainerID)+uint64(m.Size) > math.MaxUint32 || uint64(m.HostID)+uint64(m.Size) > math.MaxUint32 {
			return fmt.Errorf("range %d reaches above the last id, 4294967294", i+1)
		}
		for j, o := range maps[:i] {
			if overlap(m.ContainerID, m.Size, o.ContainerID, o.Size) || overlap(m.HostID, m.Size, o.HostID, o.Size) {
				return fmt.Errorf("ranges %d and %d overlap", j+1, i+1)
			}
		}
	}
	return nil
}

func overlap(a, na, b, nb uint32) bool {
	return uint64(a) < uint64(b)+uint64(nb) && uint64(b) < uint64(a)+uint64(na)
}

// ToHost returns the host's id of one inside; ok is false where it has none.
func ToHost(maps []IDMap, id uint32) (host uint32, ok bool) {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// ToContainer returns the container's id for one of the host's; ok is false where it
// has none.
func ToContainer(maps []IDMap, host uint32) (id uint32, ok bool) {
	for _, m := range maps {
		if host >= m.HostID && host-m.HostID < m.Size {
			return m.ContainerID + (host - m.HostID), true
		}
	}
	return 0, false
}

// Mapped tells whether an id of the host has one inside.
func Mapped(maps []IDMap, host uint32) bool {
	_, ok := ToContainer(maps, host)
	return ok
}

// WriteMaps emits the steps by which the launcher writes the id maps of a new
// user namespace. proc is a descriptor of its /proc folder. Where the launcher
// itself has no power over groups, setgroups(2) is given up first.
func WriteMaps(b *plan.Builder, proc plan.Reg, uids, gids []IDMap, denySetgroups bool) {
	if denySetgroups {
		write(b, proc, "setgroups", "deny")
	}
	write(b, proc, "uid_map", text(uids))
	write(b, proc, "gid_map", text(gids))
}

func write(b *plan.Builder, proc plan.Reg, file, content string) {
	b.WriteFile(proc.At(), file, content, "/proc/<init>/"+file)
}

func text(maps []IDMap) string {
	var s strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&s, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return s.String()
}
