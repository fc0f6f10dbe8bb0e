package namespace

import "fmt"

// ValidateHostname tells what is wrong with a hostname: more than 64 bytes
// (HOST_NAME_MAX), an empty one, or a character that hostname(7) does not have.
func ValidateHostname(name string) error {
	if name == "" {
		return fmt.Errorf("empty")
	}
	if len(name) > 64 {
		return fmt.Errorf("%d bytes, at most 64", len(name))
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && c != '-' && c != '.' && c != '_' {
			return fmt.Errorf("character %q: letters, digits, '-', '.' and '_' are allowed", c)
		}
		if (c == '-' || c == '.') && (i == 0 || i == len(name)-1) {
			return fmt.Errorf("%q at an end", c)
		}
	}
	return nil
}
