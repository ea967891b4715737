package listen

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// proxySignature begins a PROXY header of version 2.
var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// The limits of the two versions: a line, and a header with its TLVs.
const (
	proxyLineMax   = 107
	proxyHeaderMax = 4096
)

// readProxy reads the PROXY header that a load balancer puts in front of a
// connection, and not a byte more, and notes what it says of the client. The
// protocol is HAProxy's proxy-protocol.txt.
func readProxy(r io.Reader, info *Info) error {
	head := make([]byte, 12, proxyLineMax)
	if _, err := io.ReadFull(r, head); err != nil {
		return fmt.Errorf("read PROXY header: %w", err)
	}
	if bytes.Equal(head, proxySignature) {
		return readProxy2(r, info)
	}
	if !bytes.HasPrefix(head, []byte("PROXY ")) {
		return &strange{"a connection without PROXY header on a listener that demands it: connect through the proxy, or turn proxy_protocol off"}
	}
	for !bytes.HasSuffix(head, []byte("\r\n")) {
		if len(head) == proxyLineMax {
			return errors.New("PROXY header: a line without end")
		}
		head = append(head, 0)
		if _, err := io.ReadFull(r, head[len(head)-1:]); err != nil {
			return fmt.Errorf("read PROXY header: %w", err)
		}
	}
	return parseProxy1(strings.TrimSuffix(string(head), "\r\n"), info)
}

// parseProxy1 parses a line like "PROXY TCP4 192.0.2.1 198.51.100.1 40000 1883".
func parseProxy1(line string, info *Info) error {
	fields := strings.Split(line, " ")
	if len(fields) >= 2 && fields[1] == "UNKNOWN" {
		return nil
	}
	if len(fields) != 6 || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return fmt.Errorf("PROXY header %q: expected TCP4 or TCP6, two addresses and two ports", line)
	}
	from, err := proxyAddr(fields[1], fields[2], fields[4])
	if err == nil { // the broker does not use the other one, but a header is right as a whole
		_, err = proxyAddr(fields[1], fields[3], fields[5])
	}
	if err != nil {
		return fmt.Errorf("PROXY header %q: %w", line, err)
	}
	info.Remote = net.TCPAddrFromAddrPort(from)
	return nil
}

func proxyAddr(family, addr, port string) (netip.AddrPort, error) {
	at, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if at.Is4() != (family == "TCP4") {
		return netip.AddrPort{}, fmt.Errorf("%s is not an address of %s", addr, family)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || len(port) > 1 && port[0] == '0' {
		return netip.AddrPort{}, fmt.Errorf("port %q: expected a number from 0 to 65535", port)
	}
	return netip.AddrPortFrom(at, uint16(n)), nil
}

// Type-length-values of version 2 that matter here.
const (
	tlvSSL           = 0x20
	tlvSSLCommonName = 0x22
)

// readProxy2 reads the rest of a header of version 2.
func readProxy2(r io.Reader, info *Info) error {
	var fixed [4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return fmt.Errorf("read PROXY header: %w", err)
	}
	n := int(binary.BigEndian.Uint16(fixed[2:]))
	if fixed[0]>>4 != 2 || fixed[0]&0x0F > 1 || n > proxyHeaderMax {
		return fmt.Errorf("PROXY header: version and command 0x%02x, %d bytes: expected version 2 and at most %d bytes", fixed[0], n, proxyHeaderMax)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read PROXY header: %w", err)
	}
	if fixed[0]&0x0F == 0 {
		return nil // LOCAL: the proxy itself, for a health check
	}
	return parseProxy2(fixed[1], body, info)
}

func parseProxy2(family byte, body []byte, info *Info) error {
	size := map[byte]int{1: 4, 2: 16}[family>>4]
	if size == 0 {
		return nil // neither IPv4 nor IPv6: nothing we could name
	}
	if len(body) < 2*size+4 {
		return fmt.Errorf("PROXY header: %d bytes of addresses: expected %d", len(body), 2*size+4)
	}
	addr, _ := netip.AddrFromSlice(body[:size])
	port := binary.BigEndian.Uint16(body[2*size:])
	info.Remote = net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, port))
	return eachTLV(body[2*size+4:], func(kind byte, value []byte) error {
		if kind != tlvSSL || len(value) < 5 {
			return nil
		}
		return eachTLV(value[5:], func(kind byte, value []byte) error {
			if kind == tlvSSLCommonName {
				info.CommonName = string(value)
			}
			return nil
		})
	})
}

func eachTLV(b []byte, each func(kind byte, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < 3 || len(b) < 3+int(binary.BigEndian.Uint16(b[1:])) {
			return errors.New("PROXY header: an additional field is cut off")
		}
		n := int(binary.BigEndian.Uint16(b[1:]))
		if err := each(b[0], b[3:3+n]); err != nil {
			return err
		}
		b = b[3+n:]
	}
	return nil
}
