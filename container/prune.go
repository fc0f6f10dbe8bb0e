package container

// PruneReport tells what Prune removed, and what it could not.
type PruneReport struct {
	// Removed are paths; "container ID" is one of this program's own.
	Removed []string `json:"removed"`
	// Kept is what could not be removed, and is tried again by the next Prune.
	Kept []Kept `json:"kept,omitempty"`
}

// Kept is one thing that Prune could not remove, and why.
type Kept struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}
