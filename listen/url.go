package listen

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Scheme is what a listener speaks.
type Scheme string

// The schemes, with their usual ports.
const (
	MQTT  Scheme = "mqtt"  // 1883; also tcp
	MQTTS Scheme = "mqtts" // 8883; also ssl, tls
	WS    Scheme = "ws"    // 8083
	WSS   Scheme = "wss"   // 8084
	Unix  Scheme = "unix"  // a socket file
)

func (s Scheme) tls() bool       { return s == MQTTS || s == WSS }
func (s Scheme) webSocket() bool { return s == WS || s == WSS }

var (
	synonyms = map[string]Scheme{"mqtt": MQTT, "tcp": MQTT, "mqtts": MQTTS, "ssl": MQTTS, "tls": MQTTS, "ws": WS, "wss": WSS, "unix": Unix}
	ports    = map[Scheme]string{MQTT: "1883", MQTTS: "8883", WS: "8083", WSS: "8084"}
)

// URL is where a listener listens: a scheme with an address, or a file.
type URL struct {
	Scheme Scheme
	Host   string // host:port; empty host: all addresses; empty for unix
	Path   string // of the socket file, or the WebSocket path that is told to clients
}

// ParseURL parses URLs like mqtt://127.0.0.1:1883, wss://:8084/mqtt or
// unix:///run/fairlead.sock. A port that is left out is the usual one.
func ParseURL(s string) (URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return URL{}, fmt.Errorf("listener %q: %w", s, err)
	}
	scheme, ok := synonyms[strings.ToLower(u.Scheme)]
	if !ok {
		return URL{}, fmt.Errorf("listener %q: scheme %q: expected mqtt, mqtts, ws, wss or unix", s, u.Scheme)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return URL{}, fmt.Errorf("listener %q: expected scheme, host, port and path only", s)
	}
	if scheme == Unix {
		if u.Host != "" || u.Path == "" {
			return URL{}, fmt.Errorf("listener %q: expected unix:///path/to/socket", s)
		}
		return URL{Scheme: Unix, Path: u.Path}, nil
	}
	if !scheme.webSocket() && u.Path != "" && u.Path != "/" {
		return URL{}, fmt.Errorf("listener %q: only ws and wss have a path", s)
	}
	port := u.Port()
	if port == "" {
		port = ports[scheme]
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return URL{}, fmt.Errorf("listener %q: port %s: expected a number from 0 to 65535; 0: any", s, port)
	}
	out := URL{Scheme: scheme, Host: net.JoinHostPort(u.Hostname(), port)}
	if scheme.webSocket() {
		out.Path = "/mqtt"
		if u.Path != "" && u.Path != "/" {
			out.Path = u.Path
		}
	}
	return out, nil
}

// String is the URL as it is written.
func (u URL) String() string {
	if u.Scheme == Unix {
		return "unix://" + u.Path
	}
	return string(u.Scheme) + "://" + u.Host + u.Path
}

// Named reports whether the listener is on one address that is named, and not on all
// that the machine has.
func (u URL) Named() bool {
	if u.Scheme == Unix {
		return true
	}
	host, _, err := net.SplitHostPort(u.Host)
	if err != nil || host == "" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err != nil || !ip.IsUnspecified()
}

// TLS reports whether the listener encrypts.
func (u URL) TLS() bool { return u.Scheme.tls() }

// WebSocket reports whether MQTT is carried by WebSocket.
func (u URL) WebSocket() bool { return u.Scheme.webSocket() }

// Loopback reports whether only this machine can reach the listener: a loopback
// address or name, or a socket file.
func (u URL) Loopback() bool {
	if u.Scheme == Unix {
		return true
	}
	host, _, err := net.SplitHostPort(u.Host)
	if err != nil {
		return false
	}
	return loopback(host)
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// allows reports whether a web page from the origin may connect: one of the same
// host, of this machine, or of a listed host. Any page that a person visits
// could else speak to a broker on their own machine.
func (w *webSocket) allows(origin, host string) bool {
	if origin == "" || slices.Contains(w.origins, "*") {
		return true // no browser
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return slices.Contains(w.origins, origin)
	}
	return strings.EqualFold(u.Host, host) || loopback(u.Hostname()) ||
		slices.ContainsFunc(w.origins, func(o string) bool {
			return strings.EqualFold(o, u.Host) || strings.EqualFold(o, u.Hostname()) || strings.EqualFold(o, origin)
		})
}
