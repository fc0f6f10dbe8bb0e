package container

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/inlay-dev/inlay/internal/launcher"
	"github.com/inlay-dev/inlay/internal/netdriver"
)

// Prune removes what host programs left behind that were killed together with
// their launcher, or whose containers did not end, in the default state directory
// of this user: what owner files name whose locks nobody holds any more. What has
// a living owner is left alone, but for this program's own: containers of which
// Close left something are tried again.
//
// Where namespace/network is linked it also removes bridges, links and rules of programs
// that are gone, in this program's network namespace.
//
// Prune waits for two seconds for each program's leftovers. The error joins why
// something could not be removed, and the report, which is there too, tells it one
// by one. For concurrent use, also by several programs.
func Prune(ctx context.Context) (*PruneReport, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	report := &PruneReport{}
	own := pruneOwn(ctx, report)
	dir := launcher.DefaultStateDir()
	removed, kept, err := launcher.PruneState(dir, pruneGroup(ctx))
	report.Removed = append(report.Removed, removed...)
	errs := []error{err}
	if d := netdriver.Registered(); d != nil {
		removed, left := d.Prune(ctx, dir)
		report.Removed = append(report.Removed, removed...)
		for _, path := range slices.Sorted(maps.Keys(left)) {
			kept = append(kept, launcher.Kept{Path: path, Err: left[path]})
		}
	}
	for _, k := range kept {
		report.Kept = append(report.Kept, Kept{Path: k.Path, Reason: k.Err.Error()})
		errs = append(errs, k.Err)
	}
	if err := errors.Join(errs...); err != nil {
		return report, errors.Join(own, &StartError{Phase: PhaseTeardown, Op: "prune", Path: dir, Err: err})
	}
	return report, own
}
