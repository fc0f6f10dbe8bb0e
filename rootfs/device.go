package rootfs

import (
	"fmt"
	"path"
	"strings"

	"github.com/inlay-dev/inlay/internal/plan"
)

// Device is a device node of the host that a container has too. It is data.
type Device struct {
	// Source is the node on the host, or a link to it.
	Source string `json:"source"`
	// Target is where it is inside; "" is Source.
	Target string `json:"target,omitempty"`
	// Access is what jobs may do, of the letters r, w and m; "" is all. To make nodes, m,
	// is granted or of no use whatever it says.
	Access string `json:"access,omitempty"`
}

// Inside is where the device is in the container.
func (d Device) Inside() string {
	if d.Target == "" {
		return d.Source
	}
	return d.Target
}

// Narrowed tells that jobs may not do all with the device.
func (d Device) Narrowed() bool {
	return d.Access != "" && (!strings.Contains(d.Access, "r") || !strings.Contains(d.Access, "w"))
}

// Validate tells what is wrong with the device, without looking at the host.
func (d Device) Validate() error {
	if err := validateHostPath(d.Source); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if err := ValidateInside(d.Inside()); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if path.Clean(d.Inside()) == "/" || strings.HasSuffix(d.Inside(), "/") {
		return fmt.Errorf("target %q names a folder", d.Inside())
	}
	if d.Access != "" && (strings.Trim(d.Access, "rwm") != "" || len(d.Access) > 3 || strings.Trim(d.Access, "m") == "") {
		return fmt.Errorf("access %q: letters of r, w and m, with r or w among them", d.Access)
	}
	return nil
}

// Node is what a device was found to be on the host.
type Node struct {
	Mode         uint32 // S_IFCHR or S_IFBLK, and permissions
	Major, Minor uint32
}

// Rule is the device for a control group, in Docker's words.
func (n Node) Rule(access string) string {
	kind := "c"
	if n.Mode&sIFMT == sIFBLK {
		kind = "b"
	}
	if access == "" {
		access = "rwm"
	}
	return fmt.Sprintf("%s %d:%d %s", kind, n.Major, n.Minor, access)
}

const (
	sIFMT  = 0o170000
	sIFCHR = 0o020000
	sIFBLK = 0o060000
)

// prepareDevices has the launcher copy the mounts of the nodes, and look what they are:
// between then and the look of this program somebody may have put anything there.
func (b *Build) prepareDevices() {
	for i, d := range b.Devices {
		n := b.Nodes[d.Source]
		node := b.Prepare.OpenTree(plan.CWD, d.Source, plan.OpenTreeClone, d.Source)
		b.Prepare.Hint(d.Source, "the device must be there, and this program must be allowed to reach it")
		b.Prepare.Verify(node, d.Source, uint16(n.Mode&sIFMT), n.Major, n.Minor)
		if b.HostRoot {
			b.setattr(b.Prepare, node, 0, plan.AttrReadOnly, 0, d.Source) // as those of /dev
		}
		b.trees[fmt.Sprint("device ", i)] = node
	}
}

// showDevices puts them into the container: those in its /dev before that becomes
// read-only, others when all is mounted that they may lie in.
func (b *Build) showDevices(inDev bool) {
	for i, d := range b.Devices {
		at := strings.TrimPrefix(path.Clean(d.Inside()), "/")
		if strings.HasPrefix(at, "dev/") != inDev {
			continue
		}
		b.placeholderIn(path.Dir(at), path.Base(at))
		b.attach(b.Child, b.trees[fmt.Sprint("device ", i)], at, "a device is shown where a file can be made, as in /dev, or on a file")
	}
}
