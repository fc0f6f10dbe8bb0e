package container

import "io/fs"

// MaxReadFile is the largest file that [fs.ReadFile] takes from [Container.FS], in
// bytes: a job decides how large its files are, and what is read whole is the host
// program's memory.
const MaxReadFile = 64 << 20

// FS returns the container's files, as its jobs see them, for reading, while it runs
// and after its main job has ended, until Close. Names are those of io/fs: without a
// slash in front, "." is the root. It may be used by many goroutines.
//
// Links are resolved inside the container, whatever they say; links of /proc that lead
// to open files or other roots are refused (ELOOP). Only regular files and folders
// open: a FIFO, a socket or a device is an error that matches errors.ErrUnsupported,
// and is never waited for. [fs.ReadFile] refuses more than [MaxReadFile] bytes with
// EFBIG; Open reads files of any size, sparse and growing ones too, piece by piece.
//
// It implements [fs.ReadDirFS], [fs.StatFS], [fs.ReadFileFS] and [fs.ReadLinkFS]. An
// opened file is an [io.ReaderAt] and an [io.Seeker] as well. Sys of a [fs.FileInfo] is
// the *syscall.Stat_t, with the ids that the container has for its owners, 65534 for
// those that have none inside.
//
// Its errors are *fs.PathErrors: ErrNotStarted, ErrClosed, ErrEnded where the container
// is gone, or the kernel's answer, which init met with all rights inside the
// container. An answer that takes longer than ten seconds, because a file system hangs,
// is context.DeadlineExceeded.
func (c *Container) FS() fs.FS { return containerFS{c} }

// containerFS is what FS returns; see files_linux.go.
type containerFS struct{ c *Container }
