package attack

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// group is a multicast address, of those that no network uses, RFC 5771.
const group = "239.255.77.77"

// listenEverywhere answers with the secret at each of the host's addresses: over
// TCP at those of {addresses}, over UDP at any at {udp}, to broadcasts and to a
// multicast group as well.
func (w *world) listenEverywhere(t testing.TB) {
	t.Helper()
	tcp, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	w.answer(t, tcp)
	// The kernel loads the module that tells of sockets for whoever asks first: for
	// the host, so that what an attack does is seen apart from it.
	require.NoError(t, findListener(w.port))
	port := strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // it was asked for
	links, err := net.Interfaces()
	require.NoError(t, err)
	var list []string
	for _, l := range links {
		addresses, err := l.Addrs()
		require.NoError(t, err)
		for _, a := range addresses {
			ip := a.(*net.IPNet).IP //nolint:forcetypeassert // interfaces have such
			host := ip.String()
			if ip.IsLinkLocalUnicast() && ip.To4() == nil {
				host += "%" + l.Name
			}
			list = append(list, net.JoinHostPort(host, port))
		}
	}
	require.NotEmpty(t, list, "not even lo is up")

	lo, err := net.InterfaceByIndex(1)
	require.NoError(t, err)
	// It is bound to any address, not to the group's alone.
	udp, err := net.ListenMulticastUDP("udp4", lo, &net.UDPAddr{IP: net.ParseIP(group)})
	require.NoError(t, err)
	w.answerDatagrams(t, udp)
	at := udp.LocalAddr().(*net.UDPAddr).Port //nolint:forcetypeassert // it was asked for
	w.further = append(w.further, "{addresses}", strings.Join(list, ","), "{udp}", strconv.Itoa(at))
}

// answerDatagrams gives the secret to whoever sends one.
func (w *world) answerDatagrams(t testing.TB, c net.PacketConn) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_, from, err := c.ReadFrom(make([]byte, 100))
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteTo([]byte(w.secret), from) // the attacker may be gone
			}
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		<-ended
	})
}

// nameHost tells the host's name and where this program has its state directory,
// as container.WithStateDir says.
func (w *world) nameHost(t testing.TB) {
	t.Helper()
	name, err := os.Hostname()
	require.NoError(t, err)
	state := "/run/inlay"
	if os.Geteuid() != 0 {
		state = filepath.Join(os.TempDir(), "inlay-"+strconv.Itoa(os.Geteuid()))
		if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
			state = filepath.Join(run, "inlay")
		}
	}
	w.further = append(w.further, "{hostname}", name, "{state}", state)
}
