package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// write writes so many MiB, through the page cache or directly.
func write(direct bool, mib int) int {
	flags := os.O_CREATE | os.O_WRONLY
	if direct {
		flags |= syscall.O_DIRECT
	}
	f, err := os.OpenFile("/data/file", flags, 0o600)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	block := make([]byte, 2<<18) // direct I/O wants whole blocks at whole addresses
	if rest := uintptr(unsafe.Pointer(&block[0])) % 4096; rest != 0 {
		block = block[4096-rest:]
	}
	block = block[:1<<18]
	begun := time.Now()
	for range mib * 4 {
		if _, err := f.Write(block); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Printf("%.2f MiB/s\n", float64(mib)/time.Since(begun).Seconds())
	return 0
}
