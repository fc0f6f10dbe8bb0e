// Package attack has no code of its own: its tests attack containers. Each
// attack is a function, in C (testdata/attack.c) or in Go, that a hostile job
// runs and that says whether it got out:
//
//	ESCAPED: read /etc/shadow of the host
//	CONTAINED: openat: Permission denied
//
// Each is run in a default container, as root of its user namespace and as an
// ordinary user, as the main job and by Exec; with each layer of protection off
// in turn; and once where it must succeed, outside of any container or in one
// whose doors were opened, so that an attack that does not work is found out.
package attack
