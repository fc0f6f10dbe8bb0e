package network

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/fault"
	"github.com/inlay-dev/inlay/internal/netdriver"
)

// A token bucket gives the right rate where the tokens of the longest time for which
// nobody serves the queue fit into the bucket. With high resolution timers that is how
// long a busy machine leaves the kernel waiting; without them it is a tick, 1/HZ.
const (
	serviceTime = 0.025 // seconds
	queueTime   = 0.1   // how long a packet may wait, seconds
	minPackets  = 4     // in a bucket: one is being sent, and one comes meanwhile
	maxQueue    = 8 << 20
	// header is of Ethernet: a bridge's packets are counted with it.
	header = 14
)

// sender is what the sender of what containers receive needs: 0 where that is a kernel.
// pasta's TCP sends as much as the receiver's window takes, whatever is lost, and then
// begins with the first lost packet again. So the window, of a connection that has no way
// to go but into the annex, is kept small, and queues take some of them.
var sender struct {
	window int     // bytes
	queue  float64 // bytes
}

// slowSender sets it for pasta.
func slowSender() {
	sender.window, sender.queue = 64<<10, 512<<10
}

// bucket is a token bucket in bytes.
type bucket struct {
	rate         uint64 // bytes a second
	burst, queue uint32
}

// newBucket computes a bucket: of a rate in bits a second, a burst in bytes (0 is
// chosen), the link's MTU, and how many ticks a second the kernel's timers have.
func newBucket(rate, burst uint64, mtu int, hz uint64) bucket {
	packet := float64(mtu + header)
	bytes := float64(rate) / 8
	b := float64(burst)
	if burst == 0 {
		b = bytes * max(serviceTime, 3/float64(max(hz, 1)))
	}
	b = min(max(b, minPackets*packet), math.MaxUint32/2)
	queue := b + min(max(bytes*queueTime, 16*packet, sender.queue), maxQueue)
	return bucket{rate: rate / 8, burst: uint32(b), queue: uint32(min(queue, math.MaxUint32))}
}

// qdisc is the bucket on a link.
func (b bucket) qdisc(index int) *netlink.Tbf {
	// The kernel has the bucket as the time to fill it, in ticks of 64 ns
	// (PSCHED_SHIFT, net/pkt_sched.h).
	ticks := float64(b.burst) / float64(b.rate) * 1e9 / 64
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       b.rate, Limit: b.queue, Buffer: uint32(min(ticks, math.MaxUint32)),
	}
}

// clockHZ is how many timer ticks a second the kernel has, by /proc/net/psched, which
// says 1,000,000,000 where timers have a high resolution.
func clockHZ() uint64 {
	text, err := os.ReadFile("/proc/net/psched")
	var a, b, c, d uint64
	if err == nil {
		_, err = fmt.Sscanf(string(text), "%x %x %x %x", &a, &b, &c, &d)
	}
	if err != nil || d == 0 {
		return 100 // the slowest that is built
	}
	return d
}

// shape has a link send at most at a rate; 0 takes the bound away.
func shape(h *netlink.Handle, index int, name string, rate, burst uint64, mtu int) error {
	if err := fault.At("shape", name); err != nil {
		return fail("shape", name, err, "")
	}
	if rate == 0 {
		err := h.QdiscDel(&netlink.GenericQdisc{QdiscType: "tbf", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}})
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) { // there is none
			return fail("shape", name, err, "")
		}
		return nil
	}
	if err := h.QdiscReplace(newBucket(rate, burst, mtu, clockHZ()).qdisc(index)); err != nil {
		return &netdriver.Error{Op: "shape", Path: name, Err: err, Remedy: "the kernel must have sch_tbf", Limit: errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)}
	}
	return nil
}

// shapeByIFB has what comes from the container pass a device whose queue is shaped: the
// container's own end is not safe from who has CAP_NET_ADMIN in there.
func (l *link) shapeByIFB(rate, burst uint64) error {
	if err := fault.At("ifb", l.ifb); err != nil {
		return fail("ifb", l.ifb, err, "")
	}
	unable := func(op string, err error) error {
		return &netdriver.Error{
			Op: op, Path: l.ifb, Err: err, Limit: true,
			Remedy: "the kernel must have ifb, act_mirred, sch_ingress and cls_u32; or leave CAP_NET_ADMIN out, then the container's own link is shaped",
		}
	}
	if l.ifbIndex == 0 {
		if err := l.makeIFB(unable); err != nil {
			return err
		}
	}
	return shape(l.b.h, l.ifbIndex, l.ifb, rate, burst, l.mtu)
}

func (l *link) makeIFB(unable func(string, error) error) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = l.ifb, l.mtu
	dev := &netlink.Ifb{LinkAttrs: attrs}
	err := l.b.h.LinkAdd(dev)
	if errors.Is(err, unix.EEXIST) { // a killed program's: the number is ours
		if err = l.b.h.LinkDel(linkAt(0, l.ifb)); err == nil {
			err = l.b.h.LinkAdd(dev)
		}
	}
	if err != nil {
		return unable("ifb", err)
	}
	l.ifbIndex = dev.Index
	host, err := l.b.h.LinkByIndex(l.index)
	if err != nil {
		return unable("count", err)
	}
	l.before = netdriver.Counter{Bytes: host.Attrs().Statistics.RxBytes, Packets: host.Attrs().Statistics.RxPackets}
	if err := l.b.h.LinkSetUp(dev); err != nil {
		return unable("ifb", err)
	}
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	if err := l.b.h.QdiscReplace(ingress); err != nil {
		return unable("ingress", err)
	}
	attr := netlink.FilterAttrs{LinkIndex: l.index, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL}
	err = l.b.h.FilterAdd(&netlink.U32{FilterAttrs: attr, Actions: []netlink.Action{netlink.NewMirredAction(l.ifbIndex)}})
	if errors.Is(err, unix.ENOENT) { // no cls_u32
		err = l.b.h.FilterAdd(&netlink.MatchAll{FilterAttrs: attr, Actions: []netlink.Action{netlink.NewMirredAction(l.ifbIndex)}})
	}
	if err != nil {
		return unable("redirect", err)
	}
	return nil
}
