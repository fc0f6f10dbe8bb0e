package container_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/containertest"
	"github.com/inlay-dev/inlay/rootfs"
)

// hostileTree is a root folder that somebody prepared, and a folder beside it that
// nothing of it may reach.
type hostileTree struct {
	base, root, outside string
	before              string // of outside
	opts                container.Option
}

// newHostileTree makes one out of busybox; nothing of it is hostile yet.
func newHostileTree(t *testing.T) *hostileTree {
	t.Helper()
	base := t.TempDir()
	for _, d := range []string{filepath.Dir(base), base} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	h := &hostileTree{base: base, root: filepath.Join(base, "root"), outside: filepath.Join(base, "outside")}
	hostileRoot(t, h.root)
	require.NoError(t, os.Mkdir(h.outside, 0o777))
	require.NoError(t, os.Chmod(h.outside, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(h.outside, "kept"), []byte("kept"), 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(h.outside, "program"), []byte("#!/bin/busybox sh\necho outside\n"), 0o755))
	h.before = outsideText(t, h.outside)
	t.Cleanup(func() { // t.TempDir removes only what it may enter
		require.NoError(t, filepath.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				err = os.Chmod(path, 0o755)
			}
			return err
		}))
	})
	// The worst case: the container's root is this user.
	h.opts = container.Options(container.WithRoot(rootfs.Dir(h.root, rootfs.Writable())), container.WithIDMaps(hostIDs()))
	return h
}

// things are what may stand in a tree in a folder's or a file's place, each at the
// name that it is made at.
var things = []struct {
	name  string
	make  func(h *hostileTree, at string) error
	needs containertest.Feature
	// inside tells that it leads to a folder inside of the root.
	inside bool
}{
	{name: "link to a descriptor", make: link("/proc/self/fd/3")},
	{name: "link to the descriptors", make: link("/proc/self/fd")},
	{name: "link to init's root", make: link("/proc/1/root")},
	{name: "link to its own root", make: link("/proc/self/root")},
	{name: "link to init's working folder", make: link("/proc/1/cwd")},
	{name: "link to a thread's root", make: link("/proc/thread-self/root/usr")},
	{name: "absolute link out", make: func(h *hostileTree, at string) error { return os.Symlink(h.outside, at) }},
	{name: "relative link out", make: link("../outside")},
	{name: "link with many dots out", make: func(h *hostileTree, at string) error {
		return os.Symlink(strings.Repeat("../", 50)+h.outside[1:], at)
	}},
	{name: "link to itself", make: func(_ *hostileTree, at string) error { return os.Symlink(filepath.Base(at), at) }},
	{name: "41 links", make: func(_ *hostileTree, at string) error {
		err := os.Symlink("/bin", at+"0")
		for i := range 41 {
			err = errors.Join(err, os.Symlink(filepath.Base(at)+strconv.Itoa(i), at+strconv.Itoa(i+1)))
		}
		return errors.Join(err, os.Symlink(filepath.Base(at)+"41", at))
	}},
	{name: "link inside", make: link("/bin"), inside: true},
	{name: "link of 4,095 bytes", make: func(_ *hostileTree, at string) error { return os.Symlink("/"+strings.Repeat("./", 2046)+"x", at) }},
	{name: "link to nothing", make: link("/no/such/folder")},
	{name: "FIFO", make: func(_ *hostileTree, at string) error { return unix.Mkfifo(at, 0o777) }},
	{name: "link to a FIFO", make: func(_ *hostileTree, at string) error {
		return errors.Join(unix.Mkfifo(at+".fifo", 0o777), os.Symlink(filepath.Base(at)+".fifo", at))
	}},
	{name: "socket", make: func(_ *hostileTree, at string) error {
		// A relative path: an address has 108 bytes.
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/tmp/" + strconv.Itoa(os.Getpid()) + ".inlay-test"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return errors.Join(l.Close(), os.Rename("/tmp/"+strconv.Itoa(os.Getpid())+".inlay-test", at))
	}},
	{name: "terminal", make: node(5, 0), needs: containertest.Root},
	{name: "disk", make: func(_ *hostileTree, at string) error {
		return errors.Join(unix.Mknod(at, unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))), os.Chmod(at, 0o777))
	}, needs: containertest.Root},
	{name: "endless zeroes", make: node(1, 5), needs: containertest.Root},
	{name: "kernel's log", make: node(1, 11), needs: containertest.Root},
	{name: "text file", make: func(_ *hostileTree, at string) error { return os.WriteFile(at, []byte("text"), 0o644) }},
	{name: "sparse file of 10 GiB", make: func(_ *hostileTree, at string) error {
		return errors.Join(os.WriteFile(at, nil, 0o755), os.Truncate(at, 10<<30))
	}},
	{name: "folder that nobody may enter", make: func(_ *hostileTree, at string) error { return os.Mkdir(at, 0) }},
}

func link(to string) func(*hostileTree, string) error {
	return func(_ *hostileTree, at string) error { return os.Symlink(to, at) }
}

func node(major, minor uint32) func(*hostileTree, string) error {
	return func(_ *hostileTree, at string) error {
		return errors.Join(unix.Mknod(at, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))), os.Chmod(at, 0o777))
	}
}

// readers are what resolves a path of the tree: each is given one whose first part, or
// whose end, is hostile.
var readers = []struct {
	name string
	opt  func(path string) container.Option
}{
	{"tmpfs on it", func(p string) container.Option { return container.WithMounts(rootfs.Tmpfs(p)) }},
	{"tmpfs below it", func(p string) container.Option { return container.WithMounts(rootfs.Tmpfs(p + "/kept/new")) }},
	{"folder bound on it", func(p string) container.Option {
		return container.WithMounts(rootfs.Bind("/usr/share", p, rootfs.ReadOnly()))
	}},
	{"folder bound below it", func(p string) container.Option {
		return container.WithMounts(rootfs.Bind("/usr/share", p+"/new", rootfs.ReadOnly()))
	}},
	{"file bound on it", func(p string) container.Option {
		return container.WithMounts(rootfs.Bind("/etc/passwd", p, rootfs.ReadOnly()))
	}},
	{"file bound below it", func(p string) container.Option {
		return container.WithMounts(rootfs.Bind("/etc/passwd", p+"/kept", rootfs.ReadOnly()))
	}},
	{"file on it", func(p string) container.Option { return container.WithFile(p, []byte("written"), 0o644) }},
	{"file below it", func(p string) container.Option { return container.WithFile(p+"/new", []byte("written"), 0o644) }},
	{"file in place of one below it", func(p string) container.Option { return container.WithFile(p+"/kept", []byte("written"), 0o644) }},
	{"working folder", func(p string) container.Option { return container.WithDir(p) }},
	{"working folder below it", func(p string) container.Option { return container.WithDir(p + "/bin") }},
	{"command", func(p string) container.Option { return container.WithCommand(p) }},
	{"command below it", func(p string) container.Option { return container.WithCommand(p + "/program") }},
	{"command in PATH", func(p string) container.Option {
		return container.Options(container.WithCommand("program"), container.WithEnv("PATH="+p+":"+p+"/..:/proc/self/fd:/proc/1/root"+p))
	}},
	{"command that PATH finds", func(p string) container.Option {
		return container.Options(container.WithCommand(filepath.Base(p)), container.WithEnv("PATH="+filepath.Dir(p)))
	}},
	{"interpreter", func(p string) container.Option {
		return container.Options(container.WithFile(p+"script", []byte("#!"+p+"\n"), 0o755), container.WithCommand(p+"script"))
	}},
	{"interpreter below it", func(p string) container.Option {
		return container.Options(container.WithFile(p+"script", []byte("#!"+p+"/program x\n"), 0o755), container.WithCommand(p+"script"))
	}},
}

// Each reader meets each thing: it succeeds inside of the root or is a StartError, and
// nothing outside is reached, opened or changed.
func TestReadingHostileTree(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for _, th := range things {
		t.Run(th.name, func(t *testing.T) {
			if th.needs != "" {
				containertest.Require(t, th.needs)
			}
			h := newHostileTree(t)
			for i, r := range readers {
				// A name for each: some of them cover it, or make it.
				at := fmt.Sprintf("/work/at%d_", i)
				require.NoError(t, th.make(h, h.root+at))
				label := r.name
				var out bytes.Buffer
				res, err := container.Run(timeout(t), h.opts, container.WithCommand("/bin/busybox", "true"), r.opt(at), container.WithStdout(&out), container.WithStderr(&out))
				if err != nil {
					var e *container.StartError
					require.ErrorAs(t, err, &e, label)
					var left *container.LeftError
					require.NotErrorAs(t, err, &left)
					require.LessOrEqual(t, len(err.Error()), 5000, label)
				} else if !th.inside {
					require.NotContains(t, out.String(), "outside", label)
					require.NotEqual(t, -1, res.ExitCode, "%s: %v", label, res)
				}
				require.Equal(t, h.before, outsideText(t, h.outside), label)
				kept, err := os.ReadFile(filepath.Join(h.outside, "kept"))
				require.NoError(t, err)
				require.Equal(t, "kept", string(kept), label)
			}
		})
	}
}

// A root whose own folders are such things.
func TestReadingHostileRoots(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	for _, th := range things {
		t.Run(th.name, func(t *testing.T) {
			if th.needs != "" {
				containertest.Require(t, th.needs)
			}
			for _, name := range []string{"etc", "proc", "dev", "tmp", "run"} {
				h := newHostileTree(t)
				require.NoError(t, os.Remove(filepath.Join(h.root, name)))
				require.NoError(t, th.make(h, filepath.Join(h.root, name)))
				for _, root := range []rootfs.Root{rootfs.Dir(h.root), rootfs.Dir(h.root, rootfs.Writable())} {
					res, err := container.Run(timeout(t), h.opts, container.WithRoot(root), container.WithCommand("/bin/busybox", "true"))
					if err != nil {
						var e *container.StartError
						require.ErrorAs(t, err, &e, name)
					} else {
						require.True(t, res.Success(), "%s: %v", name, res)
					}
					require.Equal(t, h.before, outsideText(t, h.outside), name)
				}
			}
		})
	}
}

// program64 is an ELF header with one program header, PT_INTERP, that says where
// the interpreter's name is and how long.
func program64(at, size uint64, change func(b []byte)) []byte {
	le := binary.LittleEndian
	b := make([]byte, 256)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], uint16(elf.ET_EXEC))
	le.PutUint16(b[18:], map[string]uint16{"amd64": uint16(elf.EM_X86_64), "arm64": uint16(elf.EM_AARCH64)}[runtime.GOARCH])
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64) // e_phoff
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], uint32(elf.PT_INTERP))
	le.PutUint64(b[64+8:], at)
	le.PutUint64(b[64+32:], size)
	copy(b[128:], "/no/such\x00")
	if change != nil {
		change(b)
	}
	return b
}

// Programs that lie about themselves are refused, or end by the kernel's doing, and
// cost the host program nothing: neither time nor memory goes by what they claim.
func TestReadingHostilePrograms(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	le := binary.LittleEndian
	huge := ^uint64(0)
	for _, tt := range []struct {
		name string
		file []byte
		size int64  // as which it is made sparse; 0: as it is
		want string // in the error, where there has to be one
	}{
		{"10 GiB of nothing", nil, 10 << 30, "neither an ELF program nor a script"},
		{"script with a line of 1 MiB", append([]byte("#!/"), bytes.Repeat([]byte("a"), 1<<20)...), 0, ""},
		{"script of blanks", append([]byte("#!"), bytes.Repeat([]byte(" "), 1<<20)...), 0, ""},
		{"script of NUL bytes", append([]byte("#!"), make([]byte, 1<<20)...), 0, ""},
		{"script without a line's end", []byte("#!/no/such"), 0, "its interpreter /no/such"},
		{"script of 10 GiB", []byte("#!/no/such\n"), 10 << 30, "its interpreter /no/such"},
		{"script that is its own interpreter", []byte("#!/work/x\n"), 0, ""},
		{"script with control characters", []byte("#!/\x1b[2J\x07\xff\n"), 0, ""},
		{"script to a FIFO", []byte("#!/fifo\n"), 0, "cannot be executed"},
		{"script to a folder", []byte("#!/bin\n"), 0, "cannot be executed"},
		{"interpreter", program64(128, 9, nil), 0, "its interpreter /no/such (PT_INTERP)"},
		{"interpreter behind the end", program64(1<<40, 9, nil), 0, ""},
		{"interpreter before the beginning", program64(huge-8, 9, nil), 0, ""},
		{"interpreter of 16 EiB", program64(128, huge, nil), 0, ""},
		{"interpreter of 4,096 bytes", program64(0, 4096, nil), 4096, ""},
		{"interpreter of 4,097 bytes", program64(0, 4097, nil), 8192, ""},
		{"interpreter of no bytes", program64(128, 0, nil), 0, ""},
		{"interpreter in the middle of 10 GiB", program64(5<<30, 4096, nil), 10 << 30, ""},
		{"interpreter to a FIFO", program64(128, 6, func(b []byte) { copy(b[128:], "/fifo\x00") }), 0, ""},
		{"program headers behind the end", program64(128, 9, func(b []byte) { le.PutUint64(b[32:], 1<<50) }), 0, ""},
		{"program headers that overflow", program64(128, 9, func(b []byte) { le.PutUint64(b[32:], huge-55) }), 0, ""},
		{"65,535 program headers", program64(128, 9, func(b []byte) { le.PutUint16(b[56:], 65535) }), 0, ""},
		{"program headers of 65,535 bytes", program64(128, 9, func(b []byte) { le.PutUint16(b[54:], 65535) }), 0, ""},
		{"program headers of no bytes", program64(128, 9, func(b []byte) { le.PutUint16(b[54:], 0) }), 0, ""},
		{"segment of 16 EiB", program64(0, 0, func(b []byte) {
			le.PutUint32(b[64:], uint32(elf.PT_LOAD))
			le.PutUint64(b[64+32:], huge)
			le.PutUint64(b[64+40:], huge)
		}), 0, ""},
		{"segment of 10 GiB", program64(0, 10<<30, func(b []byte) {
			le.PutUint32(b[64:], uint32(elf.PT_LOAD))
			le.PutUint32(b[68:], 5)
			le.PutUint64(b[64+16:], 0x400000)
			le.PutUint64(b[64+40:], 10<<30)
			le.PutUint64(b[24:], 0x400000+100)
		}), 10 << 30, ""},
		{"cut off after the name", []byte("\x7fELF\x02"), 0, "neither"},
		{"of 32 bits", program64(128, 9, func(b []byte) { b[4] = 1 }), 0, ""},
		{"big endian", program64(128, 9, func(b []byte) { b[5] = 2 }), 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHostileTree(t)
			require.NoError(t, unix.Mkfifo(filepath.Join(h.root, "fifo"), 0o777))
			name := filepath.Join(h.root, "work/x")
			require.NoError(t, os.WriteFile(name, tt.file, 0o755))
			if tt.size > 0 {
				require.NoError(t, os.Truncate(name, tt.size))
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			res, err := container.Run(timeout(t), h.opts, container.WithCommand("/work/x"))
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20), "it takes memory by what it was told")
			if err == nil {
				require.Empty(t, tt.want)
				require.False(t, res.Success(), "%v", res)
				return
			}
			require.ErrorIs(t, err, container.ErrNotExecutable)
			require.ErrorContains(t, err, tt.want)
			require.LessOrEqual(t, len(err.Error()), 5000)
			for _, c := range err.Error() {
				require.False(t, c < ' ' || c == 0x7f, "%q", err.Error())
			}
		})
	}
}

// A command lies where it is looked for alone: what is in its way is passed by.
func TestReadingCommandLookup(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	h := newHostileTree(t)
	in := func(name string) string { return filepath.Join(h.root, name) }
	script := []byte("#!/bin/busybox sh\necho found\n")
	for _, d := range []string{"good", "plain", "closed", "folder"} {
		require.NoError(t, os.Mkdir(in(d), 0o755))
	}
	require.NoError(t, os.WriteFile(in("good/tool"), script, 0o755))
	require.NoError(t, os.WriteFile(in("plain/tool"), script, 0o644))
	require.NoError(t, os.Mkdir(in("folder/tool"), 0o755))
	require.NoError(t, unix.Mkfifo(in("fifo"), 0o777))
	require.NoError(t, os.Symlink("loop", in("loop")))
	require.NoError(t, os.Symlink(h.outside, in("out")))
	require.NoError(t, os.Rename(filepath.Join(h.outside, "program"), filepath.Join(h.outside, "tool")))
	for _, path := range []string{"/fifo", "/plain", "/folder", "/out", "/proc/self/fd", "/dev/null", "/no/such"} {
		require.Equal(t, "found\n", output(t, h.opts, container.WithCommand("tool"), container.WithEnv("PATH="+path+":/good")), path)
		_, err := container.Run(timeout(t), h.opts, container.WithCommand("tool"), container.WithEnv("PATH="+path))
		require.True(t, errors.Is(err, container.ErrNotFound) || errors.Is(err, container.ErrNotExecutable), "%s: %v", path, err)
	}
	_, err := container.Run(timeout(t), h.opts, container.WithCommand("tool"), container.WithEnv("PATH=/loop"))
	require.Error(t, err)
	// The longest that can be asked for.
	long := strings.Repeat("/no/such/"+strings.Repeat("x", 200)+":", 500)
	require.Equal(t, "found\n", output(t, h.opts, container.WithCommand("tool"), container.WithEnv("PATH="+long+"/good")))
}

// Names that are swapped between a folder and a link that leads out, while containers
// start, are never followed out.
func TestReadingSwappedNames(t *testing.T) {
	containertest.Census(t)
	needContainers(t)
	n := 100
	switch {
	case os.Getenv("INLAY_VM") != "":
		n = 20
	case os.Getenv("INLAY_CI") != "" && !testing.Short():
		n = 1000
	}
	for _, tt := range []struct {
		name string
		opt  func(i int) container.Option
	}{
		{"mount targets", func(i int) container.Option {
			return container.WithMounts(rootfs.Tmpfs(fmt.Sprintf("/work/deep/t%d", i)), rootfs.Bind("/etc/passwd", fmt.Sprintf("/work/deep/b%d", i), rootfs.ReadOnly()))
		}},
		{"working folder", func(int) container.Option {
			return container.Options(container.WithDir("/work/deep"), container.WithCommand("/bin/busybox", "sh", "-c", "[ ! -e kept ] && [ \"$(pwd)\" = /work/deep ] && : >here"))
		}},
		{"command", func(int) container.Option { return container.WithCommand("/work/deep/program") }},
		{"command in PATH", func(int) container.Option {
			return container.Options(container.WithCommand("program"), container.WithEnv("PATH=/work/deep"))
		}},
		{"interpreter", func(int) container.Option { return container.WithCommand("/script") }},
		{"files", func(i int) container.Option {
			return container.WithFile(fmt.Sprintf("/work/deep/f%d/f", i), []byte("x"), 0o644)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHostileTree(t)
			work, other := filepath.Join(h.root, "work"), filepath.Join(h.root, "other")
			require.NoError(t, os.Mkdir(filepath.Join(h.outside, "deep"), 0o777))
			require.NoError(t, os.Chmod(filepath.Join(h.outside, "deep"), 0o777))
			for at, says := range map[string]string{h.outside: "outside", work: "inside"} {
				require.NoError(t, os.MkdirAll(filepath.Join(at, "deep"), 0o777))
				require.NoError(t, os.WriteFile(filepath.Join(at, "deep/program"), []byte("#!/bin/busybox sh\necho "+says+"\n"), 0o755))
			}
			require.NoError(t, os.WriteFile(filepath.Join(h.outside, "deep/kept"), nil, 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(h.root, "script"), []byte("#!/work/deep/program\n"), 0o755))
			require.NoError(t, os.Symlink(h.outside, other))
			before := outsideText(t, h.outside)
			var stop atomic.Bool
			swapped := make(chan error, 1)
			end := sync.OnceValue(func() error {
				stop.Store(true)
				return <-swapped
			})
			t.Cleanup(func() { require.NoError(t, end()) })
			go func() {
				for !stop.Load() {
					if err := unix.Renameat2(unix.AT_FDCWD, work, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
						swapped <- err
						return
					}
				}
				swapped <- nil
			}()
			inside, refused := 0, 0
			for i := 0; i < n || (inside == 0 || refused == 0) && i < 10*n; i++ {
				var out bytes.Buffer
				res, err := container.Run(timeout(t), h.opts, container.WithCommand("/bin/busybox", "true"), tt.opt(i), container.WithStdout(&out), container.WithStderr(&out))
				if err != nil {
					var e *container.StartError
					require.ErrorAs(t, err, &e)
					refused++
					continue
				}
				require.NotContains(t, out.String(), "outside")
				if res.Success() {
					inside++
				} else { // it was swapped again while the job looked for itself
					require.NotContains(t, []string{"mount targets", "files"}, tt.name, "%v %s", res, out.String())
				}
			}
			require.NoError(t, end())
			t.Logf("%d inside, %d refused", inside, refused)
			require.Positive(t, inside)
			require.Positive(t, refused)
			require.Equal(t, before, outsideText(t, h.outside))
			require.NoError(t, filepath.WalkDir(h.outside, func(path string, _ fs.DirEntry, err error) error {
				require.NotContains(t, path, "here")
				return err
			}))
		})
	}
}
