package attack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
)

// attacksOnLayers get out where a single layer is missing: each layer is seen by at
// least one, but for no_new_privs, beside which every mount is nosuid and every
// capability set empty.
var attacksOnLayers = []attack{
	{name: attackGo("layer-seccomp-key", addKey), proof: bare, needs: keyrings, class: "kernel"},
	{name: attackGo("layer-seccomp-personality", noRandomization), proof: bare, class: "kernel"},
	{
		name: attackGo("layer-capabilities-unmask", func([]string) (string, error) {
			if err := unix.Unmount("/proc/interrupts", unix.MNT_DETACH); err != nil {
				return "", fmt.Errorf("umount2: %w", err)
			}
			return readsAny("/proc/interrupts")
		}), proof: opened, open: []container.Option{container.WithCapabilities("sys_admin")},
		class: "kernel",
	},
	{
		name: attackGo("layer-capabilities-remount", remount), args: []string{"/usr"}, proof: opened,
		open: []container.Option{container.WithCapabilities("sys_admin")}, class: "files",
	},
	{
		// Which page of the machine's memory is in what use, and where the kernel has
		// its own: 0400, of the host's root.
		name: attackGo("layer-user-namespace-memory", func([]string) (string, error) {
			return readsAny("/proc/kpageflags", "/proc/vmallocinfo", "/proc/pagetypeinfo")
		}), proof: bareRoot, class: "kernel",
	},
	{
		// What every key press and packet leaves behind in numbers.
		name: attackGo("layer-masks-interrupts", func([]string) (string, error) { return readsAny("/proc/interrupts") }), proof: bare,
		class: "kernel",
	},
}

// attacksOnLandlock are on what a default container lets its jobs do, and rules of
// WithLandlock do not.
var attacksOnLandlock = []attack{
	{name: attackGo("layer-landlock-file", func(args []string) (string, error) {
		text, err := readsAny(args[0])
		if err == nil && len(args) > 1 && !strings.Contains(text, args[1]) {
			return "", errors.New("another file")
		}
		return text, err
	}), args: []string{"/etc/passwd"}, class: "files"},
	{name: attackGo("layer-landlock-port", func([]string) (string, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer l.Close() //nolint:errcheck // the job ends
		return "listens at " + l.Addr().String(), nil
	}), class: "network"},
}

// readsAny reads the first of these files that has anything.
func readsAny(names ...string) (string, error) {
	var all error
	for _, n := range names {
		text, err := readSome(n)
		if err == nil {
			return n + ": " + fmt.Sprintf("%.60q", text), nil
		}
		all = errors.Join(all, err)
	}
	return "", all
}

func readSome(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was read
	buf := make([]byte, 4096)
	n, err := f.Read(buf)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return string(buf[:n]), nil
}

// addKey puts a key into the kernel's store, which is one for the whole machine.
func addKey([]string) (string, error) {
	// A keyring belongs to a thread.
	runtime.LockOSThread()
	id, err := unix.AddKey("user", "inlay-attack", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
	if err != nil {
		return "", fmt.Errorf("add_key: %w", err)
	}
	return fmt.Sprintf("made key %d", id), nil
}

// keyrings tells whether this kernel has them, and this user may.
func keyrings() error {
	_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, false)
	if errors.Is(err, unix.ENOKEY) {
		return nil // none was made yet
	}
	return err
}

// noRandomization turns address space randomization off for what is executed next:
// the first step to a program with more rights.
func noRandomization([]string) (string, error) {
	const addrNoRandomize = 0x0040000
	if err := errnoOf(unix.RawSyscall(unix.SYS_PERSONALITY, addrNoRandomize, 0, 0)); err != nil {
		return "", fmt.Errorf("personality: %w", err)
	}
	return "personality is set", nil
}

// remount makes a bind of the host's writable.
func remount(args []string) (string, error) {
	if err := unix.Mount("", args[0], "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return "", fmt.Errorf("mount: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(args[0], &st); err != nil {
		return "", fmt.Errorf("statfs: %w", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return "", errors.New("statfs: still read-only")
	}
	return args[0] + " is writable", nil
}
