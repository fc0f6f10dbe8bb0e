package container

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/inlay-dev/inlay/rootfs"
)

// WithRoot sets the container's root; without it, it is [rootfs.Host].
func WithRoot(root rootfs.Root) Option {
	return newOption("WithRoot", formatted("%+v", root), func(s *Spec) { s.Root = &root })
}

// WithMounts adds mounts, made in their order: [rootfs.Bind], [rootfs.Tmpfs].
func WithMounts(mounts ...rootfs.Mount) Option {
	mounts = slices.Clone(mounts)
	return newOption("WithMounts", formatted("%+v", mounts), func(s *Spec) { s.Mounts = append(slices.Clip(s.Mounts), mounts...) })
}

// WithFile writes a file before the job starts, at an absolute path inside: in a
// memory file system (/tmp, /run, or a new folder below / of [rootfs.Host]) or in
// a writable root. Folders that lead to it are made, mode 0755. It belongs to
// root, has the given mode, and must be new. At most 16 MiB.
func WithFile(name string, data []byte, mode fs.FileMode) Option {
	data = slices.Clone(data)
	return newOption("WithFile", formatted("%q, %d bytes, %v", name, len(data), mode), func(s *Spec) {
		s.Files = append(slices.Clip(s.Files), rootfs.File{Path: name, Data: data, Mode: uint32(mode)})
	})
}

// WithFiles writes the regular files of a file system (embed.FS, fstest.MapFS,
// os.DirFS) below dst, as [WithFile] does, with their permissions. The files are
// read by New, which reports what cannot be read, and what is neither a file nor
// a folder.
func WithFiles(dst string, files fs.FS) Option {
	return newOption("WithFiles", formatted("%q, %T", dst, files), func(s *Spec) {
		fault := func(err error) {
			s.faults = append(s.faults, &OptionError{Option: "WithFiles", Value: fmt.Sprintf("%q", dst), Reason: err.Error()})
		}
		if files == nil {
			fault(errors.New("no file system"))
			return
		}
		err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s is a %v, not a file", p, info.Mode().Type())
			}
			if info.Size() > rootfs.MaxFile {
				return fmt.Errorf("%s has %d bytes, at most %d", p, info.Size(), rootfs.MaxFile)
			}
			data, err := fs.ReadFile(files, p)
			if err != nil {
				return err
			}
			mode := uint32(info.Mode().Perm())
			if mode == 0 {
				mode = 0o444 // fstest.MapFS and the like leave it out
			}
			s.Files = append(slices.Clip(s.Files), rootfs.File{Path: path.Join(dst, p), Data: data, Mode: mode})
			return nil
		})
		if err != nil {
			fault(err)
		}
	})
}

// WithStateDir sets where id ranges and owner locks lie: an absolute path to a
// folder of this user's own, made with mode 0700. Without it, it is /run/inlay
// for root, else $XDG_RUNTIME_DIR/inlay, else inlay-UID in the temporary folder.
func WithStateDir(dir string) Option {
	return newOption("WithStateDir", formatted("%q", dir), func(s *Spec) {
		s.StateDir = dir
		if dir == "" {
			s.faults = append(s.faults, &OptionError{Option: "WithStateDir", Value: `""`, Reason: "empty path"})
		}
	})
}

// WithID names the container: 1 to 64 letters, digits, '-', '_' and '.', the
// first a letter or digit. Without it, it is random.
func WithID(id string) Option {
	return newOption("WithID", formatted("%q", id), func(s *Spec) {
		s.ID = id
		if id == "" {
			s.faults = append(s.faults, &OptionError{Option: "WithID", Value: `""`, Reason: "empty"})
		}
	})
}

// WithLabel attaches a value to the container, for the host program's own use.
// Neither may hold a newline or a NUL byte.
func WithLabel(key, value string) Option {
	return newOption("WithLabel", formatted("%q, %q", key, value), func(s *Spec) {
		m := map[string]string{key: value}
		for k, v := range s.Labels {
			if k != key {
				m[k] = v
			}
		}
		s.Labels = m
	})
}
