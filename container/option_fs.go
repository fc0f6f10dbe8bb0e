package container

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/inlay-dev/inlay/rootfs"
)

// WithRoot sets the container's root; without it, it is [rootfs.Host].
func WithRoot(root rootfs.Root) Option {
	return newOption("WithRoot", formatted("%+v", root), func(s *Spec) { s.Root = &root })
}

// WithMounts adds mounts, made in their order: [rootfs.Bind], [rootfs.Tmpfs],
// [rootfs.Sysfs], and parts of other containers by [Container.Mount].
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

// WithSymlink makes a link at an absolute path inside, before the job starts, where
// [WithFile] could write: after the files, and in their order. What it says is not
// looked at; where it leads is settled inside.
func WithSymlink(target, path string) Option {
	return newOption("WithSymlink", formatted("%q, %q", target, path), func(s *Spec) {
		s.Symlinks = append(slices.Clip(s.Symlinks), rootfs.Symlink{Path: path, Target: target})
	})
}

// WithDevice shows a device node of the host, at path, to the container: inside at
// target, or at the same path where target is "". The node is the host's own, a link is
// followed, and it must be one that jobs may open by its mode: as root the container's
// ids are none of the host's, so "others" must.
//
// access is what jobs may do with it, as in Docker's --device, of the letters r (read),
// w (write) and m (make nodes, which open nothing and are never refused by this); "" is
// all. Where a letter of r and w is left out, or there are rules by [WithDeviceRules], it
// becomes a rule for the controller devices as well: without one Start returns a
// [*LimitError], and all devices that no rule names are denied. Rules are for a device's
// numbers: where another WithDevice, a rule, or the minimal /dev allows more of the same
// device, that holds for all of its nodes.
//
// New reports a path that is none and letters that are none as an [*OptionError]; Start
// what is not there, no device, or of no use, as a [*StartError]. Optional leaves out a
// device that is not there.
func WithDevice(path, target, access string) Option {
	return newOption("WithDevice", formatted("%q, %q, %q", path, target, access), func(s *Spec) {
		s.Devices = append(slices.Clip(s.Devices), rootfs.Device{Source: path, Target: target, Access: access})
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

// WithLabel attaches a value to the container, for the host program's own use: it
// is in the Spec, in each [Event], in the [Result] and in each record of
// [WithLogger]. At most 64, a key of 1 to 128 bytes, a value of at most 4,096, both
// UTF-8 without newlines and NUL bytes.
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

// WithLabels attaches several values, as [WithLabel] does one.
func WithLabels(labels map[string]string) Option {
	labels = maps.Clone(labels)
	return newOption("WithLabels", formatted("%q", labels), func(s *Spec) {
		m := maps.Clone(s.Labels)
		if m == nil {
			m = map[string]string{}
		}
		maps.Copy(m, labels)
		s.Labels = m
	})
}
