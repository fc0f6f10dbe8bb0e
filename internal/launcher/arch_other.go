//go:build !amd64

package launcher

const archName = "arm64"
