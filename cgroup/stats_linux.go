package cgroup

import (
	"bytes"
	"math"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Stats reads the group's figures: a dozen small files, in some tens of
// microseconds. It fails only where the group is gone.
func (g *Group) Stats() (*Stats, error) {
	n := g.any()
	if n < 0 {
		return nil, &Error{Op: "read", Path: g.rel, Err: unix.ENOENT}
	}
	if err := g.t.places[n].at(func(dir int) error { return unix.Faccessat(dir, g.rel, unix.F_OK, 0) }); err != nil {
		return nil, &Error{Op: "read", Path: g.t.places[n].path + "/" + g.rel, Err: err}
	}
	s := &Stats{Time: time.Now()}
	r := g.reader()
	defer r.done()
	r.cpu(&s.CPU, true)
	r.memory(&s.Memory, true)
	r.pids(&s.Pids)
	s.IO = r.io()
	return s, nil
}

// Final reads the figures that stay when the last process has ended: those of
// what is in use now, and of pressure, are Absent. It costs about half of Stats.
func (g *Group) Final() *Stats {
	s := &Stats{Time: time.Now()}
	r := g.reader()
	defer r.done()
	r.cpu(&s.CPU, false)
	r.memory(&s.Memory, false)
	r.pids(&s.Pids)
	s.IO = r.io()
	return s
}

// CPUTime reads the processor time that the group has used, with all below it;
// Absent where nothing tells.
func (g *Group) CPUTime() time.Duration {
	r := g.reader()
	defer r.done()
	if text := r.file(controllerAccount, "cpuacct.usage", false); text != nil {
		return time.Duration(parse(text))
	}
	if text := r.file("", "cpu.stat", true); text != nil {
		return micro(field(text, "usage_usec"))
	}
	return Absent
}

// MemoryNow reads the memory in use, and how much of it is no file's: anonymous
// and shared. Absent where nothing tells.
func (g *Group) MemoryNow() (now, anon int64) {
	r := g.reader()
	defer r.done()
	now, anon = Absent, Absent
	for _, f := range []struct {
		v2                  bool
		now, anon, andShmem string
	}{{true, "memory.current", "anon", "shmem"}, {false, "memory.usage_in_bytes", "total_rss", "total_shmem"}} {
		if text := r.file(controllerMemory, f.now, f.v2); text != nil {
			now = parse(text)
			if text = r.file(controllerMemory, "memory.stat", f.v2); text != nil {
				anon = max(0, field(text, f.anon)) + max(0, field(text, f.andShmem))
			}
		}
	}
	return now, anon
}

// OOMKills reads how many processes the kernel has killed for want of memory in
// this group and below, and whether a limit of this group or of one below was the
// reason; false where it was the machine, or a group above.
func (g *Group) OOMKills() (kills int64, own bool) {
	r := g.reader()
	defer r.done()
	if text := r.file(controllerMemory, "memory.events", true); text != nil {
		kills = field(text, "oom_kill")
		return max(0, kills), kills > 0 && field(text, "oom") > 0
	}
	n, p := g.t.find(controllerMemory)
	if p == nil || n == g.t.unified {
		return 0, false
	}
	kills, hits := r.v1Kills(p, g.rel)
	return max(0, kills), kills > 0 && hits > 0
}

// OwnOOM tells of Final's or Stats' figures what OOMKills tells.
func (s *Stats) OwnOOM() bool { return s.Memory.OOMKills > 0 && s.Memory.ooms > 0 }

// reader reads files of one group into one buffer.
type reader struct {
	g   *Group
	buf [8192]byte
}

var readers = sync.Pool{New: func() any { return new(reader) }}

func (g *Group) reader() *reader {
	r := readers.Get().(*reader) //nolint:forcetypeassert // the pool's own
	r.g = g
	return r
}

func (r *reader) done() {
	r.g = nil
	readers.Put(r)
}

// file is a file's text; nil where it is not there. With v2 it is looked for in
// that hierarchy alone, else in v1's alone.
func (r *reader) file(controller, name string, v2 bool) []byte {
	g := r.g
	n, p := g.t.unified, (*place)(nil)
	if controller != "" {
		n, p = g.t.find(controller)
	} else if n >= 0 {
		p = &g.t.places[n]
	}
	if p == nil || (n == g.t.unified) != v2 {
		return nil
	}
	g.mu.Lock()
	in := g.in&(1<<n) != 0
	g.mu.Unlock()
	if !in {
		return nil
	}
	size, err := p.read(g.rel, name, r.buf[:])
	if err != nil {
		return nil
	}
	return r.buf[:size]
}

func (r *reader) cpu(s *CPUStats, now bool) {
	*s = CPUStats{Absent, Absent, Absent, Absent, Absent, Absent, Absent}
	if text := r.file(controllerAccount, "cpuacct.usage", false); text != nil {
		s.Total = time.Duration(parse(text))
		if text = r.file(controllerAccount, "cpuacct.stat", false); text != nil {
			user, system := max(0, field(text, "user")), max(0, field(text, "system"))
			s.User, s.System = s.Total, 0
			if user > 0 || system > 0 {
				// Of the total, by the shares that the timer saw.
				s.User = time.Duration(float64(s.Total) * float64(user) / (float64(user) + float64(system)))
				s.System = s.Total - s.User
			}
		}
	} else if text := r.file("", "cpu.stat", true); text != nil {
		s.Total, s.User, s.System = micro(field(text, "usage_usec")), micro(field(text, "user_usec")), micro(field(text, "system_usec"))
	}
	if text := r.file(controllerCPU, "cpu.stat", true); text != nil {
		s.Periods, s.Throttled, s.ThrottledTime = field(text, "nr_periods"), field(text, "nr_throttled"), micro(field(text, "throttled_usec"))
	} else if text := r.file(controllerCPU, "cpu.stat", false); text != nil {
		s.Periods, s.Throttled, s.ThrottledTime = field(text, "nr_periods"), field(text, "nr_throttled"), time.Duration(field(text, "throttled_time"))
	}
	if now {
		s.Pressure = r.pressure("cpu.pressure")
	}
}

// pressure reads the total of "some" of a file of PSI.
func (r *reader) pressure(name string) time.Duration {
	return parsePressure(r.file("", name, true))
}

// parsePressure reads the first total: "some avg10=0.00 … total=7", then "full …".
func parsePressure(text []byte) time.Duration {
	if i := bytes.Index(text, []byte("total=")); i >= 0 {
		return micro(parse(text[i+len("total="):]))
	}
	return Absent
}

func (r *reader) memory(s *MemoryStats, now bool) {
	*s = MemoryStats{Absent, Absent, "", Absent, Absent, Absent, Absent, Absent, Absent, Absent, Absent, Absent, Absent, Absent}
	if now {
		s.Pressure = r.pressure("memory.pressure")
	}
	text := r.file(controllerMemory, "memory.current", true)
	if text == nil {
		r.v1Memory(s, now)
		return
	}
	s.Now = parse(text)
	if text = r.file(controllerMemory, "memory.peak", true); text != nil {
		s.Peak, s.Source = parse(text), "memory.peak"
	}
	if text = r.file(controllerMemory, "memory.events", true); text != nil {
		s.OOMKills, s.LimitHits = field(text, "oom_kill"), field(text, "max")
		s.ooms = field(text, "oom")
	}
	if text = r.file(controllerMemory, "memory.stat", true); text != nil {
		s.Faults, s.MajorFaults = field(text, "pgfault"), field(text, "pgmajfault")
		if !now {
			return
		}
		s.Anon, s.File, s.Shmem = field(text, "anon"), field(text, "file"), field(text, "shmem")
		s.Kernel = field(text, "kernel")
		if s.Kernel < 0 { // before Linux 5.18
			s.Kernel = max(0, field(text, "kernel_stack")) + max(0, field(text, "pagetables")) + max(0, field(text, "percpu")) + max(0, field(text, "slab"))
		}
	}
	if text = r.file(controllerMemory, "memory.swap.current", true); text != nil {
		s.Swap = parse(text)
	}
}

// v1Memory reads v1's figures. Its count of kills is of each group alone, so
// those of the groups below are added.
func (r *reader) v1Memory(s *MemoryStats, now bool) {
	text := r.file(controllerMemory, "memory.max_usage_in_bytes", false)
	if text == nil {
		return
	}
	s.Peak, s.Source = parse(text), "memory.max_usage_in_bytes"
	_, p := r.g.t.find(controllerMemory)
	s.OOMKills, s.LimitHits = r.v1Kills(p, r.g.rel)
	s.ooms = s.LimitHits
	if !now {
		return
	}
	if text = r.file(controllerMemory, "memory.usage_in_bytes", false); text != nil {
		s.Now = parse(text)
	}
	if text = r.file(controllerMemory, "memory.stat", false); text != nil {
		s.Anon, s.File, s.Shmem, s.Swap = field(text, "total_rss"), field(text, "total_cache"), field(text, "total_shmem"), field(text, "total_swap")
		s.Faults, s.MajorFaults = field(text, "total_pgfault"), field(text, "total_pgmajfault")
	}
	if text = r.file(controllerMemory, "memory.kmem.usage_in_bytes", false); text != nil {
		s.Kernel = parse(text)
	}
}

// v1Kills adds up kills and limit hits of a group and those below.
func (r *reader) v1Kills(p *place, rel string) (kills, hits int64) {
	kills, hits = Absent, Absent
	if n, err := p.read(rel, "memory.failcnt", r.buf[:]); err == nil {
		hits = parse(r.buf[:n])
	}
	if n, err := p.read(rel, "memory.oom_control", r.buf[:]); err == nil {
		kills = field(r.buf[:n], "oom_kill") // Linux 4.13
	}
	if p.leaf(rel) {
		return kills, hits
	}
	if below, err := p.below(rel); err == nil {
		for _, name := range below {
			k, h := r.v1Kills(p, path.Join(rel, name))
			kills, hits = max(0, kills)+max(0, k), max(0, hits)+max(0, h)
		}
	}
	return kills, hits
}

func (r *reader) pids(s *PidsStats) {
	*s = PidsStats{Absent, Absent, Absent}
	for _, v2 := range []bool{true, false} {
		if text := r.file(controllerPids, "pids.current", v2); text != nil {
			s.Now = parse(text)
			if text = r.file(controllerPids, "pids.peak", v2); text != nil {
				s.Peak = parse(text)
			}
			_, p := r.g.t.find(controllerPids)
			s.LimitHits = r.forksRefused(p, r.g.rel)
		}
	}
}

// forksRefused reads how often a fork was refused. v1, and v2 before Linux 6.11,
// count where the fork was tried, and not where the limit is.
func (r *reader) forksRefused(p *place, rel string) int64 {
	hits := int64(Absent)
	if n, err := p.read(rel, "pids.events", r.buf[:]); err == nil {
		hits = field(r.buf[:n], "max")
	}
	if hits != 0 || p.leaf(rel) {
		return hits
	}
	below, err := p.below(rel)
	if err != nil {
		return hits // gone meanwhile
	}
	for _, name := range below {
		hits += max(0, r.forksRefused(p, rel+"/"+name))
	}
	return hits
}

func (r *reader) io() []IOStats {
	if text := r.file(controllerIO, "io.stat", true); text != nil {
		return parseIO2(text)
	}
	var list []IOStats
	for _, f := range []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"} {
		text := r.file(controllerIO, f, false)
		for line := range bytes.Lines(text) {
			list = addIO1(list, line, f == "blkio.throttle.io_service_bytes_recursive")
		}
	}
	return list
}

// parseIO2 reads io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …".
func parseIO2(text []byte) (list []IOStats) {
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		d := IOStats{Device: string(f[0])}
		for _, kv := range f[1:] {
			key, value, _ := bytes.Cut(kv, []byte("="))
			switch string(key) {
			case "rbytes":
				d.ReadBytes = parse(value)
			case "wbytes":
				d.WriteBytes = parse(value)
			case "rios":
				d.Reads = parse(value)
			case "wios":
				d.Writes = parse(value)
			}
		}
		if max(d.ReadBytes, d.WriteBytes, d.Reads, d.Writes) > 0 {
			list = append(list, d)
		}
	}
	return list
}

// addIO1 reads a line of a blkio file: "8:0 Read 4096".
func addIO1(list []IOStats, line []byte, isBytes bool) []IOStats {
	f := bytes.Fields(line)
	if len(f) != 3 {
		return list
	}
	n := parse(f[2])
	if n <= 0 {
		return list
	}
	at := -1
	for i := range list {
		if list[i].Device == string(f[0]) {
			at = i
		}
	}
	read := string(f[1]) == "Read"
	if !read && string(f[1]) != "Write" {
		return list
	}
	if at < 0 {
		list = append(list, IOStats{Device: string(f[0])})
		at = len(list) - 1
	}
	switch d := &list[at]; {
	case isBytes && read:
		d.ReadBytes = n
	case isBytes:
		d.WriteBytes = n
	case read:
		d.Reads = n
	default:
		d.Writes = n
	}
	return list
}

func micro(n int64) time.Duration {
	if n < 0 {
		return Absent
	}
	return time.Duration(min(n, math.MaxInt64/int64(time.Microsecond))) * time.Microsecond
}

// parse reads the number that a text begins with; Absent where there is none
// ("max"). The kernel's numbers have 64 bits without a sign: what is too large is the
// largest.
func parse(text []byte) int64 {
	if len(text) == 0 || text[0] < '0' || text[0] > '9' {
		return Absent
	}
	var n int64
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		digit := int64(c - '0')
		if n > (math.MaxInt64-digit)/10 {
			return math.MaxInt64
		}
		n = n*10 + digit
	}
	return n
}

// field reads the number after a name at a line's beginning; Absent where there
// is none.
func field(text []byte, name string) int64 {
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		if len(line) > len(name) && line[len(name)] == ' ' && string(line[:len(name)]) == name {
			return parse(line[len(name)+1:])
		}
	}
	return Absent
}

// number reads a file that holds one number.
func (g *Group) number(p *place, file string) (int64, error) {
	var buf [32]byte
	n, err := p.read(g.rel, file, buf[:])
	if err != nil {
		return Absent, &Error{Op: "read", Path: path.Join(p.path, g.rel, file), Err: err}
	}
	return parse(buf[:n]), nil
}
