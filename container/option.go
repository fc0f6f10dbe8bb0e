package container

import (
	"fmt"
	"strings"
)

// Option is one wish about a container, made by a With function for [New].
// It does no I/O and judges nothing: New checks the [Spec] that the options
// leave behind, once, and reports every fault of it together. Of two options
// for one value the later wins; lists grow.
type Option interface {
	applyContainer(*Spec)
	fmt.Stringer
	names() []string
}

// JobOption is an Option that a single job can have too, in [Container.Exec].
type JobOption interface {
	Option
	applyJob(*Job)
}

type containerOption struct {
	name  string
	shown any
	apply func(*Spec)
}

func (o containerOption) applyContainer(s *Spec) { o.apply(s) }
func (o containerOption) names() []string        { return []string{o.name} }
func (o containerOption) String() string         { return o.name + "(" + fmt.Sprint(o.shown) + ")" }

type jobOption struct {
	name  string
	shown any
	apply func(*Job)
}

func (o jobOption) applyContainer(s *Spec) { o.apply(&s.Job) }
func (o jobOption) applyJob(j *Job)        { o.apply(j) }
func (o jobOption) names() []string        { return []string{o.name} }
func (o jobOption) String() string         { return o.name + "(" + fmt.Sprint(o.shown) + ")" }

func newOption(name string, shown any, apply func(*Spec)) Option {
	return containerOption{name, shown, apply}
}

func newJobOption(name string, shown any, apply func(*Job)) JobOption {
	return jobOption{name, shown, apply}
}

// formatted is what an option shows, put into words only where somebody asks.
func formatted(format string, args ...any) fmt.Stringer { return words{format, args} }

type words struct {
	format string
	args   []any
}

func (w words) String() string { return fmt.Sprintf(w.format, w.args...) }

type bundle[T Option] []T

func (b bundle[T]) names() (all []string) {
	for _, o := range b {
		all = append(all, o.names()...)
	}
	return all
}

func (b bundle[T]) String() string {
	var parts []string
	for _, o := range b {
		parts = append(parts, o.String())
	}
	return strings.Join(parts, ", ")
}

func (b bundle[T]) applyContainer(s *Spec) {
	for _, o := range b {
		o.applyContainer(s)
	}
}

type jobBundle struct{ bundle[JobOption] }

func (b jobBundle) applyJob(j *Job) {
	for _, o := range b.bundle {
		o.applyJob(j)
	}
}

// Options makes one option of several, applied in their order.
func Options(opts ...Option) Option { return bundle[Option](present(opts)) }

// JobOptions makes one option of several for a job, applied in their order.
func JobOptions(opts ...JobOption) JobOption { return jobBundle{present(opts)} }

// present leaves nil options out: a caller's "no option".
func present[T Option](opts []T) []T {
	var out []T
	for _, o := range opts {
		if any(o) != nil {
			out = append(out, o)
		}
	}
	return out
}

type optional struct{ Option }

func (o optional) applyContainer(s *Spec) {
	o.Option.applyContainer(s)
	s.Job.Optional = append(s.Job.Optional, o.names()...)
}

type optionalJob struct{ JobOption }

func (o optionalJob) applyContainer(s *Spec) { o.applyJob(&s.Job) }

func (o optionalJob) applyJob(j *Job) {
	o.JobOption.applyJob(j)
	j.Optional = append(j.Optional, o.names()...)
}

// Optional lets Start go on without the option where this host, or this
// version, cannot do what it asks. What was left out is in [Container.Dropped]
// and in the Result. A request that is wrong stays wrong.
func Optional[T Option](opt T) T {
	var wrapped Option
	switch o := any(opt).(type) {
	case nil:
		return opt
	case JobOption:
		wrapped = optionalJob{o}
	default:
		wrapped = optional{opt}
	}
	if t, ok := wrapped.(T); ok {
		return t
	}
	return opt
}
