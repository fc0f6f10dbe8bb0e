package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inlay-dev/inlay/container"
)

// The kinds of host programs that form compares: the second one's launcher keeps the
// Go runtime's memory.
const (
	formSmall = "small form"
	formWhole = "whole form"
	formInits = 20
)

// form compares a launcher that has unmapped what the Go runtime had with one that
// keeps it: an init's memory, and the time of a launch.
func form() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	kindsOfHost := []string{formSmall, formWhole}
	var hosts []*cProgram
	rows := make([]row, 0, len(kindsOfHost))
	fmt.Printf("form of the launcher, KiB, medians of %d inits\n", formInits)
	for _, kind := range kindsOfHost {
		h, err := startC(exe, "serve", kind)
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
		rows = append(rows, row{kind, h.once})
		if _, err := h.once(); err != nil { // the inits are there
			return err
		}
		launcher, err := children(h.cmd.Process.Pid, "inlay-launcher")
		if err != nil {
			return err
		}
		if len(launcher) != 1 {
			return fmt.Errorf("%d launchers", len(launcher))
		}
		inits, err := children(launcher[0], "inlay-init")
		if err != nil {
			return err
		}
		if len(inits) < formInits {
			return fmt.Errorf("%d inits", len(inits))
		}
		inits = inits[:formInits] // in the order of their birth: the last may be ending, of the container that has just run
		var tables, private []int
		for _, pid := range inits {
			t, err := pageTablesKiB(pid)
			if err != nil {
				return err
			}
			p, err := privateKiB(pid)
			if err != nil {
				return err
			}
			tables, private = append(tables, t), append(private, p)
		}
		slices.Sort(tables)
		slices.Sort(private)
		own, err := pageTablesKiB(launcher[0])
		if err != nil {
			return err
		}
		fmt.Printf("  %-22s page tables %3d, private memory %3d, the launcher's page tables %3d\n", kind, tables[len(tables)/2], private[len(private)/2], own)
	}
	for _, k := range kinds() {
		m, err := interleave(rows, k.n, k.pause)
		if err != nil {
			return err
		}
		fmt.Printf("Run of /bin/true, %s, medians of %d\n", k.name, k.n)
		for i, r := range rows {
			fmt.Printf("  %-22s %8.3f ms\n", r.name, float64(m[i])/float64(time.Millisecond))
		}
		ratio(m, "small to whole form", 0, 1, 1)
	}
	for _, h := range hosts {
		if err := h.close(); err != nil {
			return err
		}
	}
	return nil
}

// remain starts the containers whose inits form looks at.
func remain() error {
	for range formInits {
		c, err := container.New()
		if err != nil {
			return err
		}
		if err := c.Start(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// children are the children of a process that have this name.
func children(pid int, name string) (pids []int, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		if err != nil {
			continue // a thread that has ended
		}
		for _, f := range strings.Fields(string(text)) {
			comm, err := os.ReadFile("/proc/" + f + "/comm")
			if err != nil || strings.TrimSpace(string(comm)) != name {
				continue // another, or it has ended
			}
			child, err := strconv.Atoi(f)
			if err != nil {
				return nil, err
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// pageTablesKiB is the size of a process's page tables.
func pageTablesKiB(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, l := range strings.Split(string(text), "\n") {
		if f := strings.Fields(l); len(f) >= 2 && f[0] == "VmPTE:" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("no VmPTE of process %d", pid)
}
