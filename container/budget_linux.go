package container

import (
	"errors"

	"github.com/inlay-dev/inlay/internal/quota"
	"github.com/inlay-dev/inlay/rootfs"
)

// openBudgets limits what the binds hold that have a size or inodes.
func (r *running) openBudgets() error {
	s := &r.c.spec
	for _, m := range s.Mounts {
		if !m.Budget() {
			continue
		}
		b, err := quota.Claim(m.Source, m.Size, m.Inodes)
		if err != nil {
			if err := r.withoutBudget(m, err); err != nil {
				return err
			}
			continue
		}
		r.budgets = append(r.budgets, b)
	}
	return nil
}

// withoutBudget is a bind that can have none here: it is left out where the option
// was optional.
func (r *running) withoutBudget(m rootfs.Mount, why error) error {
	limit := &LimitError{Option: "WithMounts", Reason: "no budget for the bind of " + m.Source + ": " + why.Error(), err: why}
	var e *quota.Error
	if errors.As(why, &e) {
		limit.Remedy = e.Remedy
	}
	if r.c.spec.Job.optional("WithMounts") {
		r.drop("WithMounts", limit.Reason)
		return nil
	}
	return limit
}

// refuseBudgets tells which binds could have none, and changes nothing.
func (r *running) refuseBudgets() error {
	var errs []error
	for _, m := range r.c.spec.Mounts {
		if !m.Budget() {
			continue
		}
		if err := quota.Check(m.Source); err != nil {
			errs = append(errs, r.withoutBudget(m, err))
		}
	}
	return errors.Join(errs...)
}

// releaseBudgets takes them off again; nobody writes any more.
func (r *running) releaseBudgets() error {
	var errs []error
	for _, b := range r.budgets {
		errs = append(errs, b.Release())
	}
	r.budgets = nil
	return errors.Join(errs...)
}
