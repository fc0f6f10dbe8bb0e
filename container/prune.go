package container

// PruneReport tells what Prune removed.
type PruneReport struct {
	Removed []string `json:"removed"` // paths
}
