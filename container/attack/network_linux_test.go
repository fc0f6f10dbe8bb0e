package attack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
)

// onNetwork are attacks on what the host has listening, and on its network.
var onNetwork = []attack{
	{name: attackGo("tcp-host", dialHost), class: "network namespace", args: []string{"{secret}", "{addresses}", "{port}"}, proof: bare},
	{name: attackGo("udp-host", sendToHost), class: "network namespace", args: []string{"{secret}", "{addresses}", "{udp}"}, proof: bare},
	{name: attackGo("broadcasts", sendToAll), class: "network namespace", args: []string{"{secret}", "{udp}"}, proof: bare},
	{name: attackGo("host-ports", listenAtHost), class: "network namespace", args: []string{"{port}", "{addresses}"}, proof: bare},
	{name: attackGo("abstract-sockets", dialAbstract), class: "network namespace", args: []string{"{secret}", "{abstract}"}, proof: bare},
	{name: attackGo("named-sockets", dialNamed), class: "mount namespace", args: []string{"{secret}", "{socket}", "{pid}"}, proof: bare},
	{name: attackGo("proc-net", readNetworkTables), class: "network namespace", args: []string{"{abstract}", "{port}"}, proof: bare},
	{name: attackGo("netlink-dumps", dumpNetwork), class: "network namespace", args: []string{"{port}"}, proof: bare},
	{name: attackGo("configure-network", configureNetwork), class: "capabilities", proof: opened, open: []container.Option{container.WithCapabilities("CAP_NET_ADMIN")}},
	{name: attackGo("raw-sockets", openRaw), class: "capabilities", proof: opened, open: []container.Option{container.WithCapabilities("CAP_NET_RAW")}},
}

const dialTime = 2 * time.Second

// answered reads the secret from a connection.
func answered(c net.Conn, secret string) (string, error) {
	defer c.Close() //nolint:errcheck // only read
	if err := c.SetDeadline(time.Now().Add(dialTime)); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(c, 1000))
	if err == nil && string(text) != secret {
		err = errOther
	}
	return "the host answered", err
}

// hosts are names of the host itself: its addresses, and others for lo.
func hosts(addresses string) []string {
	out := []string{"127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "localhost"}
	for _, a := range strings.Split(addresses, ",") {
		if host, _, err := net.SplitHostPort(a); err == nil && !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}

func dialHost(args []string) (string, error) {
	addresses := append(strings.Split(args[1], ","), "127.0.0.1:"+args[2], "0.0.0.0:"+args[2], "[::ffff:127.0.0.1]:"+args[2])
	return anyOf(addresses, func(address string) (string, error) {
		c, err := net.DialTimeout("tcp", address, dialTime)
		if err != nil {
			return "", err
		}
		return answered(c, args[0])
	})
}

func sendToHost(args []string) (string, error) {
	return anyOf(hosts(args[1]), func(host string) (string, error) {
		c, err := net.DialTimeout("udp", net.JoinHostPort(host, args[2]), dialTime)
		if err != nil {
			return "", err
		}
		defer c.Close() //nolint:errcheck // nothing is buffered
		// Nobody there is an answer as well: ECONNREFUSED.
		if err := c.SetDeadline(time.Now().Add(dialTime)); err != nil {
			return "", err
		}
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err == nil && string(buf[:n]) != args[0] {
			err = errOther
		}
		return "the host answered", err
	})
}

// To everybody on a network, and to a group that the host is in.
func sendToAll(args []string) (string, error) {
	port, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer closing(fd)
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, [4]byte{127, 0, 0, 1}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	for range 8 { // a host that is busy may not answer the first in time
		detail, err := anyOf([]string{"127.255.255.255", group, "255.255.255.255", "224.0.0.1"}, func(to string) (string, error) {
			address := &unix.SockaddrInet4{Port: port}
			copy(address.Addr[:], net.ParseIP(to).To4())
			if err := unix.Sendto(fd, []byte("?"), 0, address); err != nil {
				return "", err
			}
			n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) && to == group { // the last that has somebody to answer
				n, _, err = unix.Recvfrom(fd, buf, 0)
			}
			if err == nil && string(buf[:n]) != args[0] {
				err = errOther
			}
			return "the host answered", err
		})
		if err == nil {
			return detail, nil
		}
	}
	return "", errors.New("no answer")
}

// Who listens at a port of the host's gets what is meant for the host: it can be
// had where an address is the host's, and is taken where a port is.
func listenAtHost(args []string) (string, error) {
	addresses := []string{"127.0.0.1:" + args[0]}
	for _, a := range strings.Split(args[1], ",") {
		if host, _, err := net.SplitHostPort(a); err == nil && !net.ParseIP(host).IsLoopback() {
			addresses = append(addresses, net.JoinHostPort(host, "0"))
		}
	}
	return anyOf(addresses, func(address string) (string, error) {
		l, err := net.Listen("tcp", address)
		if errors.Is(err, unix.EADDRINUSE) {
			return "a port of the host's is taken", nil
		}
		if err != nil {
			return "", err
		}
		if e := l.Close(); e != nil {
			return "", e
		}
		if strings.HasPrefix(address, "127.") {
			return "", errors.New("an address of its own")
		}
		return "listened", nil
	})
}

func dialAbstract(args []string) (string, error) {
	names := []string{"@" + args[1]}
	if text, err := os.ReadFile("/proc/net/unix"); err == nil {
		for _, l := range strings.Split(string(text), "\n") {
			if f := strings.Fields(l); len(f) == 8 && strings.HasPrefix(f[7], "@inlay-attack") {
				names = append(names, f[7])
			}
		}
	}
	return anyOf(names, func(name string) (string, error) {
		c, err := net.DialTimeout("unix", name, dialTime)
		if err != nil {
			return "", err
		}
		return answered(c, args[0])
	})
}

func dialNamed(args []string) (string, error) {
	name := filepath.Base(args[1])
	paths := []string{args[1], "/proc/self/root" + args[1], "/proc/1/root" + args[1], "/proc/" + args[2] + "/cwd/" + name}
	for fd := range 64 {
		paths = append(paths, fmt.Sprintf("/proc/self/fd/%d/%s", fd, name))
	}
	return anyOf(paths, func(path string) (string, error) {
		c, err := net.DialTimeout("unix", path, dialTime)
		if err != nil {
			return "", err
		}
		return answered(c, args[0])
	})
}

// What the kernel lists of sockets.
func readNetworkTables(args []string) (string, error) {
	port, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	marks := map[string]string{"unix": args[0], "tcp": fmt.Sprintf("0100007F:%04X", port)}
	return anyOf(processes(), func(p string) (string, error) {
		return anyOf(sortedKeys(marks), func(table string) (string, error) {
			text, err := os.ReadFile(p + "/net/" + table)
			if err == nil && !strings.Contains(string(text), marks[table]) {
				err = errOther
			}
			return "the host's socket", err
		})
	})
}

// What the kernel tells of links and sockets by netlink(7).
func dumpNetwork(args []string) (string, error) {
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	return anyWay(
		way{"links", func() error {
			links, err := net.Interfaces()
			if err == nil && !slices.ContainsFunc(links, func(l net.Interface) bool { return l.Name != "lo" }) {
				err = errOther
			}
			return err
		}},
		way{"routes", func() error {
			rib, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_INET)
			if err != nil {
				return err
			}
			list, err := syscall.ParseNetlinkMessage(rib)
			if err == nil && !slices.ContainsFunc(list, func(m syscall.NetlinkMessage) bool {
				// A route in the main table, not one of lo's own addresses.
				return m.Header.Type == syscall.RTM_NEWROUTE && m.Data[4] == unix.RT_TABLE_MAIN
			}) {
				err = errOther
			}
			return err
		}},
		way{"sockets", func() error { return findListener(port) }},
	)
}

// findListener looks for a port that somebody listens at, sock_diag(7).
func findListener(port int) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer closing(fd)
	const byFamily, size, listening = 20, 72, 10
	request := make([]byte, size)
	binary.NativeEndian.PutUint32(request, size)
	binary.NativeEndian.PutUint16(request[4:], byFamily)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request[16], request[17] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[20:], 1<<listening)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		list, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range list {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return errOther
			case m.Header.Type == unix.NLMSG_ERROR:
				return syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))) //nolint:gosec // a negative errno
			case len(m.Data) >= 6 && int(binary.BigEndian.Uint16(m.Data[4:])) == port:
				return nil
			}
		}
	}
}

// Links changed, made or moved to others.
func configureNetwork([]string) (string, error) {
	runtime.LockOSThread() // a namespace that it gets is not for other attacks
	_ = unix.Unshare(unix.CLONE_NEWNET)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer closing(fd)
	set := func(request uint, value uint32) error {
		ifreq, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		ifreq.SetUint32(value)
		return unix.IoctlIfreq(fd, request, ifreq)
	}
	const linkInfo, infoKind = 18, 1
	return anyWay(
		way{"MTU of lo", func() error { return set(unix.SIOCSIFMTU, 1400) }},
		way{"flags of lo", func() error { return set(unix.SIOCSIFFLAGS, 0) }},
		way{"another link", func() error {
			// ifinfomsg and IFLA_LINKINFO{IFLA_INFO_KIND "veth"}.
			data := append(make([]byte, 16), attribute(linkInfo, attribute(infoKind, []byte("veth")))...)
			return route(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data)
		}},
		way{"lo to init's network", func() error {
			data := make([]byte, 16)
			binary.NativeEndian.PutUint32(data[4:], 1) // the index of lo
			return route(unix.RTM_SETLINK, 0, append(data, attribute(unix.IFLA_NET_NS_PID, []byte{1, 0, 0, 0})...))
		}},
	)
}

// attribute is one of netlink(7), padded.
func attribute(kind uint16, data []byte) []byte {
	out := make([]byte, 4, 4+len(data)+3)
	binary.NativeEndian.PutUint16(out, uint16(4+len(data))) //nolint:gosec // it is short
	binary.NativeEndian.PutUint16(out[2:], kind)
	out = append(out, data...)
	return append(out, make([]byte, -len(data)&3)...)
}

// route asks rtnetlink(7) for a change.
func route(kind, flags uint16, data []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer closing(fd)
	header := make([]byte, 16)
	binary.NativeEndian.PutUint32(header, uint32(16+len(data))) //nolint:gosec // it is short
	binary.NativeEndian.PutUint16(header[4:], kind)
	binary.NativeEndian.PutUint16(header[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	if err := unix.Sendto(fd, append(header, data...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n < 20 {
		return io.ErrUnexpectedEOF
	}
	if code := int32(binary.NativeEndian.Uint32(buf[16:])); code != 0 { //nolint:gosec // a negative errno
		return syscall.Errno(-code)
	}
	return nil
}

// Sockets that see or send more than their own packets, icmp(7) and packet(7).
func openRaw([]string) (string, error) {
	socket := func(family, kind, protocol int) func() error {
		return func() error {
			fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
			if err == nil {
				closing(fd)
			}
			return err
		}
	}
	const all = 0x0300 // ETH_P_ALL, in the order of the network
	return anyWay(
		way{"packets", socket(unix.AF_PACKET, unix.SOCK_RAW, all)},
		way{"packets without headers", socket(unix.AF_PACKET, unix.SOCK_DGRAM, all)},
		way{"ICMP", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		way{"ICMPv6", socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)},
		way{"IP", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)},
	)
}
