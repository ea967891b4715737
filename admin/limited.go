package admin

import (
	"net"
	"net/netip"
	"sync"
)

// limited is a listener whose connections are limited, in all and by the address that
// they come from: strangers may not use up what operators need.
type limited struct {
	net.Listener

	mu   sync.Mutex // guards what follows
	all  int
	from map[netip.Addr]int // connections by address; at most connectionsMax
}

func newLimited(ln net.Listener) *limited {
	return &limited{Listener: ln, from: make(map[netip.Addr]int)}
}

// Accept returns the next connection that there is room for.
func (l *limited) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOf(nc.RemoteAddr())
		if !l.enter(source) {
			nc.Close()
			continue
		}
		return &counted{Conn: nc, leave: sync.OnceFunc(func() { l.leave(source) })}, nil
	}
}

func (l *limited) enter(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= connectionsMax || l.from[source] >= sourceMax {
		return false
	}
	l.all++
	l.from[source]++
	return true
}

func (l *limited) leave(source netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.from[source]--; l.from[source] == 0 {
		delete(l.from, source)
	}
}

// sourceOf is whom a connection counts for: an address, and of IPv6 the /64 that one
// host can have.
func sourceOf(a net.Addr) netip.Addr {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	ip := p.Addr().Unmap().WithZone("")
	if ip.Is6() {
		net64, err := ip.Prefix(64)
		if err == nil {
			return net64.Addr()
		}
	}
	return ip
}

// counted is a connection that counts until it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
