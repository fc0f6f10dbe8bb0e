package attack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

// attacksInGo are those of the other files, by theme.
var attacksInGo = slices.Concat(onFiles, onProc, onNetwork, onInit, onVerdict, onResources)

var canaryAndSecret = []string{"{canary}", "{secret}"}

// onFiles are attacks on the host's files.
var onFiles = []attack{
	{name: attackGo("proc-root", byProcRoot), class: "pid namespace", args: canaryAndSecret, proof: bare},
	{name: attackGo("proc-cwd", byProcCwd), class: "pid namespace", args: canaryAndSecret, proof: bare},
	{name: attackGo("leaked-fds", byDescriptors), class: "descriptors", args: canaryAndSecret, proof: opened, opens: withFolder},
	{name: attackGo("cwd-dirfd", byWorkingFolder), class: "CVE-2024-21626", args: canaryAndSecret, proof: opened, opens: withFolder},
	{name: attackGo("dotdot-mounts", upFromMounts), class: "mount namespace", args: canaryAndSecret, proof: bare},
	{name: attackGo("tmp-links", byLinks), class: "pivot_root", args: append(canaryAndSecret, "{pid}"), proof: bare},
	{name: attackGo("hard-link", byHardLink), class: "pivot_root", args: append(canaryAndSecret, "{pid}", "{dir}"), proof: bare},
	{name: attackGo("disk-nodes", readDisks), class: "devices", args: []string{"{dev}"}, proof: bareVM},
	{name: attackGo("dev-nodes", openDevices), class: "devices", proof: bare},
	{name: attackGo("host-secrets", readSecrets), class: "root", proof: bare},
	{name: attackGo("state-directory", readState), class: "root", args: []string{"{state}"}, proof: bare},
	{name: attackGo("write-programs", writePrograms), class: "CVE-2019-5736", proof: bareRoot},
	{name: attackGo("write-system", writeSystem), class: "read-only root", proof: opened, opens: func(t *testing.T, _ *world) []container.Option {
		t.Helper()
		return []container.Option{container.WithMounts(rootfs.Bind(open777(t), "/opt"))}
	}},
	{name: attackGo("mount-over", mountOver), class: "capabilities", proof: opened, open: []container.Option{container.WithCapabilities("CAP_SYS_ADMIN")}},
}

// withFolder gives the world's folder as an open file.
func withFolder(t *testing.T, w *world) []container.Option {
	t.Helper()
	f, err := os.Open(w.dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return []container.Option{container.WithExtraFiles(f)}
}

// open777 is a folder for everybody to write to.
func open777(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) //nolint:gosec // so that nothing but the container is in the way
	require.NoError(t, os.Chmod(dir, 0o777))               //nolint:gosec // the same
	return dir
}

// The root of each process that can be seen, where the canary's path leads to it.
func byProcRoot(args []string) (string, error) {
	return anyOf(processes(), func(p string) (string, error) { return secretIn(p+"/root"+args[0], args[1]) })
}

// The working folder of each: one of the host's processes is in the canary's.
func byProcCwd(args []string) (string, error) {
	return anyOf(processes(), func(p string) (string, error) { return secretIn(p+"/cwd/"+filepath.Base(args[0]), args[1]) })
}

// What each process that can be seen has open: a file with the secret, a folder
// that leads to it.
func byDescriptors(args []string) (string, error) {
	var paths []string
	for _, p := range processes() {
		entries, err := os.ReadDir(p + "/fd")
		if err != nil {
			continue
		}
		for _, e := range entries {
			path := p + "/fd/" + e.Name()
			var st unix.Stat_t
			if unix.Stat(path, &st) != nil {
				continue // the one by which they were listed
			}
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				paths = append(paths, path+"/"+filepath.Base(args[0]), path+"/"+fromRoot(args[0]))
			case unix.S_IFREG:
				paths = append(paths, path)
			}
		}
	}
	return anyOf(paths, func(p string) (string, error) { return secretIn(p, args[1]) })
}

// The working folder, and every descriptor as one, even where it has no path in
// this root: getcwd(2) then says "(unreachable)".
func byWorkingFolder(args []string) (string, error) {
	var dirs []int
	for fd := -1; fd < 1024; fd++ {
		if fd < 0 || unix.Fchdir(fd) == nil {
			dirs = append(dirs, fd)
		}
	}
	return anyOf(dirs, func(fd int) (string, error) {
		if fd >= 0 {
			if err := unix.Fchdir(fd); err != nil {
				return "", err
			}
		}
		if path, err := unix.Getcwd(make([]byte, 4096)); err == nil && path == 0 {
			return "", errOther
		}
		if link, err := os.Readlink("/proc/self/cwd"); err == nil && strings.HasPrefix(link, "(unreachable)") {
			return "the working folder is " + link, nil
		}
		dir, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer closing(dir)
		for _, name := range []string{filepath.Base(args[0]), fromRoot(args[0])} {
			file, e := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if e != nil {
				err = e
				continue
			}
			var detail string
			detail, err = secretAt(file, args[1])
			closing(file)
			if err == nil {
				return detail, nil
			}
		}
		return "", err
	})
}

// From each mount upwards: a root that is not the top of its mount leads out. So does
// an old root that is left over it, one step up from the new one; two lead back again.
func upFromMounts(args []string) (string, error) {
	var ways [][2]string
	for _, m := range mountLines() {
		ways = append(ways, [2]string{m.at, fromRoot(args[0])})
		for steps := 1; steps < 6; steps++ {
			ways = append(ways, [2]string{m.at, strings.Repeat("../", steps) + strings.TrimPrefix(args[0], "/")})
		}
	}
	return anyOf(ways, func(way [2]string) (string, error) {
		fd, err := unix.Open(way[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer closing(fd)
		file, err := unix.Openat(fd, way[1], unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer closing(file)
		return secretAt(file, args[1])
	})
}

// Links of the job's own making.
func byLinks(args []string) (string, error) {
	return inTemp(func(dir string) (string, error) {
		n := 0
		return anyOf([]string{
			args[0], fromRoot(args[0]), "/proc/1/root" + args[0], "/proc/self/root" + args[0], "/proc/self/root/" + fromRoot(args[0]), "/proc/self/cwd/" + fromRoot(args[0]),
			"/proc/thread-self/root" + args[0], "/proc/" + args[2] + "/root" + args[0], "/proc/" + args[2] + "/cwd/" + filepath.Base(args[0]), "/dev/fd/../root" + args[0], "/dev/fd/0/" + fromRoot(args[0]),
		}, func(target string) (string, error) {
			n++
			link := filepath.Join(dir, strconv.Itoa(n))
			if err := os.Symlink(target, link); err != nil {
				return "", err
			}
			return secretIn(link, args[1])
		})
	})
}

// Names of the job's own for files of the host's.
func byHardLink(args []string) (string, error) {
	return inTemp(func(dir string) (string, error) {
		return anyOf([]string{args[0], "/proc/self/root" + args[0], "/proc/" + args[2] + "/cwd/" + filepath.Base(args[0]), "/proc/" + args[2] + "/root" + args[0], fromRoot(args[0])}, func(source string) (string, error) {
			return anyOf([]string{dir, args[3]}, func(to string) (string, error) {
				to = filepath.Join(to, "hard")
				if err := unix.Linkat(unix.AT_FDCWD, source, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW); err != nil {
					return "", err
				}
				detail, err := secretIn(to, args[1])
				return detail, errors.Join(err, os.Remove(to))
			})
		})
	})
}

// The host's disks, by their nodes and by nodes of the job's own.
func readDisks(args []string) (string, error) {
	numbers := map[string]bool{args[0]: true}
	var paths []string
	for _, m := range mountLines() {
		numbers[m.dev] = true
		if strings.HasPrefix(m.source, "/dev/") {
			paths = append(paths, m.source)
		}
	}
	if text, err := os.ReadFile("/proc/partitions"); err == nil {
		for _, l := range strings.Split(string(text), "\n") {
			if f := strings.Fields(l); len(f) == 4 && f[0] != "major" {
				numbers[f[0]+":"+f[1]] = true
				paths = append(paths, "/dev/"+f[3], "/dev/block/"+f[0]+":"+f[1])
			}
		}
	}
	read := func(path string) (string, error) {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer closing(fd)
		n, err := unix.Read(fd, make([]byte, 512))
		if err == nil && n == 0 {
			err = errEmpty
		}
		return "read the disk", err
	}
	detail, errOld := anyOf(paths, read)
	if errOld == nil {
		return detail, nil
	}
	detail, errNew := inTemp(func(dir string) (string, error) {
		return anyOf(sortedKeys(numbers), func(number string) (string, error) {
			return anyOf([]string{dir, "/dev", "/dev/shm", "/run"}, func(at string) (string, error) {
				var major, minor uint32
				if _, err := fmt.Sscanf(number, "%d:%d", &major, &minor); err != nil {
					return "", err
				}
				node := filepath.Join(at, "attack-disk")
				if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil { //nolint:gosec // a number of the kernel's own
					return "", err
				}
				detail, err := read(node)
				return detail, errors.Join(err, os.Remove(node))
			})
		})
	})
	if errNew == nil {
		return detail, nil
	}
	return "", fmt.Errorf("nodes: %w; new nodes: %w", errOld, errNew)
}

// documented are the devices that every job has, SECURITY.md.
var documented = []uint64{unix.Mkdev(1, 3), unix.Mkdev(1, 5), unix.Mkdev(1, 7), unix.Mkdev(1, 8), unix.Mkdev(1, 9), unix.Mkdev(5, 0)}

// Every device there is, less those that everybody has and terminals of the
// container's own.
func openDevices([]string) (string, error) {
	names := []string{"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/console", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/vsock", "/dev/ptmx"}
	_, err := below("/dev", func(path string, folder bool) (string, error) {
		if !folder && !strings.HasPrefix(path, "/dev/pts/") {
			names = append(names, path)
		}
		return "", errOther
	})
	if names == nil {
		return "", err
	}
	return anyOf(names, func(path string) (string, error) {
		if link, err := os.Readlink(path); err == nil && strings.HasPrefix(link, "pts/") {
			return "", errOther
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer closing(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return "", err
		}
		kind := st.Mode & unix.S_IFMT
		if kind != unix.S_IFCHR && kind != unix.S_IFBLK || slices.Contains(documented, st.Rdev) {
			return "", errOther
		}
		return fmt.Sprintf("opened device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
	})
}

// What the host keeps to itself, though not always from its users.
func readSecrets([]string) (string, error) {
	paths := []string{
		"/root", "/home", "/boot", "/var/lib", "/var/log", "/var/spool", "/var/mail", "/var/backups", "/srv", "/opt", "/mnt", "/media", "/lost+found", "/run/secrets", "/run/credentials", "/run/user",
		"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/notify",
		"/root/.ssh/id_rsa", "/root/.bash_history", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key",
	}
	for _, n := range rootfs.EtcDenied() {
		paths = append(paths, "/etc/"+n)
	}
	return anyOf(paths, func(path string) (string, error) {
		st, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		switch {
		case st.IsDir():
			entries, err := os.ReadDir(path)
			if err == nil && len(entries) == 0 {
				err = errEmpty
			}
			return fmt.Sprint(len(entries), " names"), err
		case st.Mode()&os.ModeSocket != 0:
			c, err := net.Dial("unix", path)
			if err != nil {
				return "", err
			}
			return "connected", c.Close()
		default:
			text, err := os.ReadFile(path)
			if err == nil && len(text) == 0 {
				err = errEmpty
			}
			return fmt.Sprint(len(text), " bytes"), err
		}
	})
}

// The folder in which the library notes who owns which ids and groups.
func readState(args []string) (string, error) {
	return anyOf([]string{args[0], "/proc/1/root" + args[0], fromRoot(args[0]), "/run/inlay", "/tmp/inlay-0"}, func(dir string) (string, error) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", err
		}
		return anyOf(entries, func(e os.DirEntry) (string, error) {
			return "opened for writing", opens(filepath.Join(dir, e.Name()), unix.O_RDWR)
		})
	})
}

// Programs that the host runs, the job's own among them, opened for writing in
// the ways that were found.
func writePrograms([]string) (string, error) {
	paths := []string{"/proc/self/exe", "/proc/1/exe", "/usr/bin/env", "/bin/sh", "/usr/bin/newuidmap", "/usr/lib/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2", "/bin/busybox", "/run/attack.test"}
	return anyOf(paths, func(path string) (string, error) {
		errDirect := opens(path, unix.O_WRONLY)
		if errDirect == nil {
			return "opened for writing", nil
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		defer closing(fd)
		if err := opens("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY); err != nil {
			return "", err
		}
		return "opened again for writing", nil
	})
}

// New files, and changes of old ones, wherever the system's are.
func writeSystem([]string) (string, error) {
	dirs := []string{"/", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/local", "/usr/local/bin", "/usr/share", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/etc/ssl", "/etc/profile.d", "/dev", "/var", "/opt", "/proc", "/proc/sys"}
	return anyOf(dirs, func(dir string) (string, error) {
		name := filepath.Join(dir, "attack-new")
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		if err == nil {
			closing(fd)
			return "made a file", os.Remove(name)
		}
		if e := unix.Mkdir(name, 0o700); e == nil {
			return "made a folder", os.Remove(name)
		}
		if e := unix.Symlink("/", name); e == nil {
			return "made a link", os.Remove(name)
		}
		if fd, e := unix.Open(dir, unix.O_WRONLY|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600); e == nil {
			closing(fd)
			return "made a file without a name", nil
		}
		var st unix.Stat_t
		if e := unix.Stat(dir, &st); e != nil {
			return "", e
		}
		if e := unix.Chmod(dir, st.Mode&0o7777); e == nil {
			return "changed the mode", nil
		}
		return "", err
	})
}

// Other files in place of those that programs trust, in the container's own mount
// namespace.
func mountOver([]string) (string, error) {
	return inTemp(func(dir string) (string, error) {
		return anyOf([]string{"/proc/self/attr", "/proc/self", "/etc", "/usr", dir}, func(at string) (string, error) {
			if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
				if e := unix.Mount("none", at, "tmpfs", 0, "size=4096"); e != nil {
					return "", err
				}
			}
			return "mounted over it", unix.Unmount(at, unix.MNT_DETACH)
		})
	})
}
