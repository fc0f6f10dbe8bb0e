package container

import (
	"errors"
	"io"
	"strings"
)

// Report is what [Probe] found out, in an order that makes sense to readers.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Finding is one thing that containers need, or could use.
type Finding struct {
	Name   string `json:"name"`             // "user namespaces"
	OK     bool   `json:"ok"`               // it is there
	Note   bool   `json:"note,omitempty"`   // informational: containers start without it
	Detail string `json:"detail"`           // what was found
	Remedy string `json:"remedy,omitempty"` // what the reader can do, in lines; may be empty

	err error // what an operation returned, for errors.Is and errors.As
}

// failed tells that no container starts because of it.
func (f *Finding) failed() bool { return !f.OK && !f.Note }

// OK tells that a container with these options starts here. Notes do not count.
func (r *Report) OK() bool {
	for i := range r.Findings {
		if r.Findings[i].failed() {
			return false
		}
	}
	return true
}

// Err joins the failed findings; nil where OK. It matches errors.ErrUnsupported,
// and errors.As finds the errors of the options and of the start.
func (r *Report) Err() error {
	var errs []error
	for _, f := range r.Findings {
		if f.failed() {
			errs = append(errs, &findingError{f})
		}
	}
	return errors.Join(errs...)
}

// findingError is a failed finding as an error.
type findingError struct{ finding Finding }

// Error says what is missing and, below it where it has several lines, the
// remedy.
func (e *findingError) Error() string {
	f := &e.finding
	msg := "inlay: " + f.Name + ": " + f.Detail
	switch {
	case f.Remedy == "":
	case strings.Contains(f.Remedy, "\n"):
		msg += "\n" + f.Remedy
	default:
		msg += " (" + f.Remedy + ")"
	}
	return msg
}

// Unwrap returns errors.ErrUnsupported and what the operation said.
func (e *findingError) Unwrap() []error {
	if e.finding.err == nil {
		return []error{errors.ErrUnsupported}
	}
	return []error{errors.ErrUnsupported, e.finding.err}
}

// WriteTo writes the report as text: a line for each finding that begins with
// "ok", "no" or "note", and below it the lines of the remedy, each after a tab.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, r.String())
	return int64(n), err
}

// String returns the text that WriteTo writes.
func (r *Report) String() string {
	var b strings.Builder
	for i := range r.Findings {
		f := &r.Findings[i]
		word := "ok    "
		switch {
		case f.Note:
			word = "note  "
		case !f.OK:
			word = "no    "
		}
		b.WriteString(word + f.Name + ": " + f.Detail + "\n")
		if f.Remedy != "" {
			// A tab: the shell's <<- takes it away again.
			b.WriteString("\t" + strings.ReplaceAll(f.Remedy, "\n", "\n\t") + "\n")
		}
	}
	return b.String()
}
