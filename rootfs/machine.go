package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/inlay-dev/inlay/internal/fault"
)

// Machine is what the plans need to know of the host's files. Look reads it;
// tests make one up, so that plans compile the same on any operating system.
type Machine struct {
	Links   map[string]string // top-level links: "bin" → "usr/bin"
	Folders []string          // top-level folders to show: "usr", "nix/store"
	Etc     []EtcEntry        // entries of /etc that are replaced, denied or picked
	HasEtc  bool
	Proc    []string // names in /proc that are masked or made read-only
	Mqueue  bool
}

// EtcEntry is one name in the host's /etc.
type EtcEntry struct {
	Name string
	// Folder tells that it is one. A link that is covered counts as what it is
	// itself, one that was picked as what it leads to.
	Folder bool
}

// shown are the folders of the host that Host shows, where they are there.
var shown = []string{"usr", "nix/store", "gnu/store"}

// besides are the names beside usr: links into it, or folders of an older layout.
var besides = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// procMasked and procReadonly are OCI's default lists, less /sys, which is not
// there at all.
var (
	procMasked   = []string{"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"}
	procReadonly = []string{"bus", "fs", "irq", "sys", "sysrq-trigger"}
)

// Look reads the description of this host. etcNames is as in [Root]. What it
// returns is shared and may not be changed: it is read again when one of the
// folders has changed that it was read from.
func Look(etcNames []string) (*Machine, error) {
	key := strings.Join(etcNames, "/") + fmt.Sprint(etcNames == nil)
	stamp := foldersStamp()
	looked.Lock()
	defer looked.Unlock()
	if l, ok := looked.at[key]; ok && l.stamp == stamp && slices.Equal(l.machine.Proc, procNames("/")) {
		return l.machine, nil
	}
	m, err := look("/", etcNames)
	if err != nil {
		return nil, err
	}
	// A folder that changes in the moment of reading has a newer stamp next time.
	if looked.at == nil || len(looked.at) > 100 {
		looked.at = map[string]look1{}
	}
	looked.at[key] = look1{stamp, m}
	return m, nil
}

var looked struct {
	sync.Mutex
	at map[string]look1
}

type look1 struct {
	stamp   string
	machine *Machine
}

// stampFolders are where names are looked for.
var stampFolders = sync.OnceValue(func() []string {
	folders := []string{"/", "/etc", "/nix", "/gnu"}
	for _, n := range EtcDenied() {
		if d := "/etc/" + path.Dir(n); path.Dir(n) != "." && !slices.Contains(folders, d) {
			folders = append(folders, d)
		}
	}
	return folders
})

// foldersStamp tells when the folders last changed.
func foldersStamp() string {
	var b strings.Builder
	for _, f := range stampFolders() {
		b.WriteString(strconv.FormatInt(modTime(f), 36))
		b.WriteByte(' ')
	}
	return b.String()
}

// procNames are the names in /proc that are there and covered, or read-only.
func procNames(root string) []string {
	var out []string
	for _, list := range [][]string{procMasked, procReadonly} {
		for _, n := range list {
			if fault.At("stat", "/proc/"+n) == nil && exists(root+"proc/"+n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// existing are those of the names below dir that are there.
func existing(dir string, names []string) []string {
	var out []string
	for _, n := range names {
		if exists(dir + n) {
			out = append(out, n)
		}
	}
	return out
}

func look(root string, etcNames []string) (*Machine, error) {
	m := &Machine{Links: map[string]string{}}
	for _, f := range shown {
		if st, err := os.Stat(filepath.Join(root, f)); err == nil && st.IsDir() {
			m.Folders = append(m.Folders, f)
		}
	}
	for _, n := range besides {
		st, err := os.Lstat(filepath.Join(root, n))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(filepath.Join(root, n))
			if err != nil {
				return nil, err
			}
			m.Links[n] = to
		case st.IsDir():
			m.Folders = append(m.Folders, n)
		}
	}
	if len(m.Folders) == 0 {
		return nil, fmt.Errorf("no /usr here: %w", fs.ErrNotExist)
	}
	if err := m.lookEtc(filepath.Join(root, "etc"), etcNames); err != nil {
		return nil, err
	}
	m.Proc = procNames(strings.TrimSuffix(root, "/") + "/")
	_, err := os.Stat(filepath.Join(root, "dev/mqueue"))
	m.Mqueue = err == nil
	return m, nil
}

// LookProc reads only what every root needs.
func LookProc() *Machine {
	m := &Machine{Proc: procNames("/")}
	_, err := os.Stat("/dev/mqueue")
	m.Mqueue = err == nil
	return m
}

func (m *Machine) lookEtc(etc string, picked []string) error {
	if st, err := os.Stat(etc); err != nil || !st.IsDir() {
		return nil // a host without /etc: the container has one of our files only
	}
	m.HasEtc = true
	names := map[string]bool{}
	for _, n := range etcOwn {
		names[n] = true
	}
	if picked != nil {
		for _, n := range picked {
			names[n] = true
		}
	} else {
		for _, n := range EtcDenied() {
			names[n] = true
		}
	}
	for n := range names {
		stat := os.Lstat
		if slices.Contains(picked, n) {
			stat = os.Stat
		}
		st, err := stat(filepath.Join(etc, n))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				continue // not there, or not for this user
			}
			return err
		}
		if path.Dir(n) != "." && !insideShown(filepath.Dir(filepath.Join(etc, n)), etc) {
			continue // its folder is a link to where the container has nothing
		}
		e := EtcEntry{Name: n, Folder: st.IsDir()}
		m.Etc = append(m.Etc, e)
	}
	sort.Slice(m.Etc, func(i, j int) bool { return m.Etc[i].Name < m.Etc[j].Name })
	return nil
}

// insideShown tells whether a folder, all links followed, is one that Host shows.
func insideShown(dir, etc string) bool {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for _, f := range append([]string{etc}, shown...) {
		if !filepath.IsAbs(f) {
			f = filepath.Join(filepath.Dir(etc), f)
		}
		if real == f || strings.HasPrefix(real, f+"/") {
			return true
		}
	}
	return false
}
