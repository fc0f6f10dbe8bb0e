//go:build !linux

package rootfs

import "os"

func modTime(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.ModTime().UnixNano()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
