package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/rootfs"
)

var (
	copyRounds = flag.Int("copyrounds", 7, "copies of each kind")
	copyFiles  = flag.Int("copyfiles", 10_000, "files of the tree that is copied, 2 KiB each")
	copySize   = flag.Int64("copysize", 1<<30, "bytes of the one large file that is copied")
	copyDir    = flag.String("copydir", os.TempDir(), "a folder that everybody may enter, on the file system that copies are made on")
)

// copies compares copying into and out of a container with cp and tar, within one file
// system: the container has a folder of it, writable.
func copies() (err error) {
	dir, err := os.MkdirTemp(*copyDir, "inlay-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	inside, host := filepath.Join(dir, "inside"), filepath.Join(dir, "host")
	for _, d := range []string{dir, inside, host} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Chmod(d, 0o777)); err != nil {
			return err
		}
	}
	c, err := container.New(container.WithMounts(rootfs.Bind(inside, "/work")))
	if err == nil {
		err = c.Start(context.Background())
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	many, one := filepath.Join(dir, "many"), filepath.Join(dir, "one")
	if err := errors.Join(manyFiles(many, *copyFiles), oneFile(one, *copySize)); err != nil {
		return err
	}
	fmt.Printf("%-40s %10s %8s %8s\n", "copies, medians", "ms", "of cp", "of tar")
	for _, src := range []string{many, one} {
		if err := copiesOf(c, src, inside, host); err != nil {
			return err
		}
	}
	return nil
}

func manyFiles(dir string, n int) error {
	text := make([]byte, 2048)
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprint(i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func oneFile(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "file"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i)
	}
	for n := size; n > 0 && err == nil; n -= int64(len(block)) {
		_, err = f.Write(block[:min(n, int64(len(block)))])
	}
	return errors.Join(err, f.Close())
}

// copiesOf measures all ways to copy a folder, one after the other in each round.
func copiesOf(c *container.Container, src, inside, host string) error {
	ctx, name := context.Background(), filepath.Base(src)
	command := func(line string, args ...string) error {
		out, err := exec.Command("sh", append([]string{"-c", line, "sh"}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
		return nil
	}
	archive := filepath.Join(filepath.Dir(src), name+".tar")
	if err := command(`tar -C "$1" -cf "$2" "$3"`, filepath.Dir(src), archive, name); err != nil {
		return err
	}
	// What goes out is a copy that lies in the container's folder.
	if _, err := c.CopyIn(ctx, src, "/work/kept"); err != nil {
		return err
	}
	report := func(_ container.CopyReport, err error) error { return err }
	to := filepath.Join(host, "to")
	rows := []struct {
		name string
		once func() error
	}{
		{"cp -a", func() error { return command(`cp -a "$1" "$2"`, src, to) }},
		{"tar | tar", func() error {
			return command(`mkdir "$3" && tar -C "$1" -cf - "$2" | tar -C "$3" -xf -`, filepath.Dir(src), name, to)
		}},
		{"CopyIn", func() error { return report(c.CopyIn(ctx, src, "/work/to")) }},
		{"CopyOut", func() error { return report(c.CopyOut(ctx, "/work/kept", to)) }},
		{"tar -c | cat", func() error { return command(`tar -C "$1" -cf - "$2" | cat >/dev/null`, filepath.Dir(src), name) }},
		{"TarOut", func() error { return report(c.TarOut(ctx, writer{io.Discard}, "/work/kept")) }},
		{"tar -x", func() error { return command(`mkdir "$2" && tar -C "$2" -xf "$1"`, archive, to) }},
		{"TarIn", func() error {
			f, err := os.Open(archive)
			if err != nil {
				return err
			}
			if err := os.Mkdir(filepath.Join(inside, "to"), 0o777); err != nil {
				return errors.Join(err, f.Close())
			}
			if err := os.Chmod(filepath.Join(inside, "to"), 0o777); err != nil {
				return errors.Join(err, f.Close())
			}
			return errors.Join(report(c.TarIn(ctx, f, "/work/to")), f.Close())
		}},
	}
	times := make([][]time.Duration, len(rows))
	for range *copyRounds {
		for i, r := range rows {
			begun := time.Now()
			if err := r.once(); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			times[i] = append(times[i], time.Since(begun))
			if err := errors.Join(os.RemoveAll(to), os.RemoveAll(filepath.Join(inside, "to"))); err != nil {
				return err
			}
		}
	}
	median := func(i int) time.Duration { slices.Sort(times[i]); return times[i][len(times[i])/2] }
	for i, r := range rows {
		fmt.Printf("%-40s %10.1f", name+": "+r.name, float64(median(i).Microseconds())/1000)
		switch r.name {
		case "CopyIn", "CopyOut":
			fmt.Printf(" %8.2f %8.2f", over(median(i), median(0)), over(median(i), median(1)))
		case "TarOut", "TarIn":
			fmt.Printf(" %8s %8.2f", "", over(median(i), median(i-1)))
		}
		fmt.Println()
	}
	return errors.Join(os.RemoveAll(filepath.Join(inside, "kept")), os.Remove(archive))
}

func over(a, b time.Duration) float64 { return float64(a) / float64(b) }

// writer hides what else a writer can do.
type writer struct{ io.Writer }
