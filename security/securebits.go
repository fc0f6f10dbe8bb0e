package security

import (
	"fmt"
	"slices"
	"strings"
)

// securebits by linux/securebits.h, in the order of their numbers.
var securebits = []string{
	"SECBIT_NOROOT", "SECBIT_NOROOT_LOCKED", "SECBIT_NO_SETUID_FIXUP", "SECBIT_NO_SETUID_FIXUP_LOCKED",
	"SECBIT_KEEP_CAPS", "SECBIT_KEEP_CAPS_LOCKED", "SECBIT_NO_CAP_AMBIENT_RAISE", "SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED",
}

// ParseSecurebit returns the name of a securebit in the form of capabilities(7)
// ("SECBIT_NOROOT_LOCKED"), from that form or systemd's ("noroot-locked").
func ParseSecurebit(name string) (string, error) {
	canonical := "SECBIT_" + strings.TrimPrefix(strings.ReplaceAll(strings.ToUpper(name), "-", "_"), "SECBIT_")
	if !slices.Contains(securebits, canonical) {
		return "", fmt.Errorf("securebit %q does not exist", name)
	}
	return canonical, nil
}

// SecurebitsMask returns the named securebits as prctl(2) takes them.
func SecurebitsMask(names []string) (uint64, error) {
	var mask uint64
	for _, n := range names {
		canonical, err := ParseSecurebit(n)
		if err != nil {
			return 0, err
		}
		mask |= 1 << slices.Index(securebits, canonical)
	}
	return mask, nil
}
