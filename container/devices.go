package container

import (
	"slices"

	"github.com/inlay-dev/inlay/rootfs"
)

// devices are those that are on this host.
func (s *Spec) devices(h *host) []rootfs.Device {
	return slices.DeleteFunc(slices.Clone(s.Devices), func(d rootfs.Device) bool { _, ok := h.nodes[d.Source]; return !ok })
}

// deviceRules are the rules that WithDevice comes to: none where a job may do all with
// each of them, and there are no others.
func (s *Spec) deviceRules(nodes map[string]rootfs.Node) []string {
	if len(s.Job.Limits.DeviceRules) == 0 && !slices.ContainsFunc(s.Devices, rootfs.Device.Narrowed) {
		return nil
	}
	var rules []string
	for _, d := range s.Devices {
		if n, ok := nodes[d.Source]; ok {
			rules = append(rules, n.Rule(d.Access))
		}
	}
	return rules
}
