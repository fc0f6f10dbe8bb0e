// Package userstack is a way out for the containers of a user where the program pasta is
// not installed: a TCP/IP stack in this program, gVisor's.
//
//	import _ "github.com/inlay-dev/inlay/namespace/network/userstack"
//
// The program's own binary is then executed once more as "inlay-stack", for all of its
// containers together. It carries TCP and UDP, over IPv4 and, where the host has a way by
// it, IPv6, to and from sockets of the user's own; ICMP it does not. As pasta it needs
// /dev/net/tun. The options of [network.Bridge] mean the same by either.
//
// It is a module of its own: who does not import it links no second TCP/IP stack.
package userstack

import (
	"github.com/inlay-dev/inlay/internal/netdriver"
	_ "github.com/inlay-dev/inlay/namespace/network" // which asks for it
)

// Name is os.Args[0] of the process.
const Name = "inlay-stack"

// Prefer has this program's containers use the stack where pasta is installed too. It
// holds for those that start when no other one of a user's runs. For concurrent use.
func Prefer() { netdriver.RegisterStack(netdriver.Stack{Name: Name, Preferred: true}) }
