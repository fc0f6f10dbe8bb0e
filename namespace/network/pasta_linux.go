package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/reexec"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/internal/netdriver"
)

// uplink is the annex's link to the world.
const uplink = "uplink"

// pastaNames are where it is looked for: in PATH, and for services that have none where it
// usually is.
var pastaNames = []string{"pasta", "/usr/bin/pasta", "/usr/local/bin/pasta"}

// chooseUplink chooses who leads out of the annex.
func (c *annexConfig) chooseUplink() error {
	stack := netdriver.RegisteredStack()
	if !stack.Preferred {
		for _, name := range pastaNames {
			if path, err := exec.LookPath(name); err == nil {
				c.Pasta = path
				return nil
			}
		}
	}
	if stack.Name == "" {
		return &netdriver.Error{
			Op: "WithNetwork", Path: "pasta", Err: fmt.Errorf("a user's containers reach the network by the program pasta, which is not here: %w", errors.ErrUnsupported),
			Remedy: "install it (passt is the package's name), import github.com/inlay-dev/inlay/namespace/network/userstack, run as root, or leave the container with lo alone: network.None()",
		}
	}
	c.Stack = stack.Name
	// Nothing is sent: the kernel looks for a way, to an address that nobody has.
	if probe, err := net.Dial("udp6", "[2000::1]:9"); err == nil {
		c.IPv6 = true
		return probe.Close()
	}
	return nil
}

// command is the uplink of a process's network namespace; for a stack the process sends
// its device.
func (c *annexConfig) command(pid int, tap *net.UnixConn) (*exec.Cmd, error) {
	if c.Pasta != "" {
		return pastaCommand(c.Pasta, pid), nil
	}
	m, files, err := get(tap)
	if err != nil {
		return nil, fail("open", "/dev/net/tun", err, "")
	}
	if m.Error != nil || len(files) != 1 {
		return nil, errors.Join(m.Error.error(), closeFiles(files))
	}
	cmd := reexec.Command(c.Stack)
	cmd.ExtraFiles = files
	cmd.Env = os.Environ()
	return cmd, nil
}

// Addresses of the uplink, which is a link between two points: RFC 7335 has the first for
// such, the second is unique local, RFC 4193.
var uplinkAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.0.2/32"), netip.MustParsePrefix("fd69:6e6c:6179:ffff::2/128")}

// makeTun makes the uplink's device, and its routes.
func (c *annexConfig) makeTun() (*os.File, error) {
	const device = "/dev/net/tun"
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fail("open", device, err, remedyTun)
	}
	f := os.NewFile(uintptr(fd), device)
	req, err := unix.NewIfreq(uplink)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fail("ioctl", "TUNSETIFF", err, remedyTun), f.Close())
	}
	if err := c.setUpTun(); err != nil {
		return nil, errors.Join(fail("set up", uplink, err, ""), f.Close())
	}
	return f, nil
}

func (c *annexConfig) setUpTun() error {
	l, err := netlink.LinkByName(uplink)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetMTU(l, 1500), netlink.LinkSetUp(l)); err != nil {
		return err
	}
	for _, p := range uplinkAddresses {
		if p.Addr().Is6() && !c.IPv6 {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if p.Addr().Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(all)}); err != nil {
			return err
		}
	}
	return nil
}

const remedyTun = "/dev/net/tun must be there for this user, as the module tun and udev make it: mode 0666"

// pastaCommand connects the network namespace of a process. What of the host's loopback
// pasta would show by itself is closed: the gateway's address is the gateway, and no port
// leads to the other side.
func pastaCommand(path string, pid int) *exec.Cmd {
	return exec.Command(path, //nolint:gosec // the installed program
		"--foreground", "--quiet", "--config-net", "--ns-ifname", uplink, "--mtu", "1500",
		"--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
		"--no-dhcp", "--no-dhcpv6", "--no-ra", strconv.Itoa(pid))
}

// tail keeps the last of what a program writes.
type tail struct{ b bytes.Buffer }

// Write is io.Writer's.
func (t *tail) Write(p []byte) (int, error) {
	const most = 4096
	if t.b.Len()+len(p) > most {
		t.b.Reset()
	}
	t.b.Write(p[max(0, len(p)-most):])
	return len(p), nil
}

// uplinkError says why the uplink ended.
func uplinkError(name string, state error, said string) error {
	var lines []string
	for line := range strings.Lines(said) {
		// Of Debian's version 2023-03, where no system log runs.
		if line = strings.TrimSpace(line); line != "" && !strings.HasSuffix(line, "to syslog") {
			lines = append(lines, line)
		}
	}
	if state == nil {
		state = errors.New("it ended")
	}
	err := state
	if len(lines) > 0 {
		err = fmt.Errorf("%s (%w)", strings.Join(lines, "; "), state)
	}
	remedy := "the host must have a way out itself, a default route"
	if strings.Contains(said, "/dev/net/tun") {
		err, remedy = fmt.Errorf("%w: %w", err, syscall.EACCES), remedyTun
	}
	return &netdriver.Error{Op: "execute", Path: name, Err: fmt.Errorf("%w: %w", err, errors.ErrUnsupported), Remedy: remedy}
}
