package container

import (
	"context"

	"github.com/inlay-dev/inlay/internal/launcher"
)

// Prune removes what host programs left behind that were killed together with
// their launcher, in the default state directory of this user: owner locks that
// nobody holds any more. What has a living owner is left alone. For concurrent
// use, also by several programs.
func Prune(ctx context.Context) (*PruneReport, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	removed, err := launcher.PruneState(launcher.DefaultStateDir(), pruneGroup(ctx))
	if err != nil {
		return &PruneReport{Removed: removed}, &StartError{Phase: PhaseTeardown, Op: "prune", Path: launcher.DefaultStateDir(), Err: err}
	}
	return &PruneReport{Removed: removed}, nil
}
