package listen

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// header2 is a PROXY header of version 2.
func header2(command, family byte, body string) string {
	return string(proxySignature) + string([]byte{0x20 | command, family, byte(len(body) >> 8), byte(len(body))}) + body
}

func TestProxyHeaders(t *testing.T) {
	v4 := "\xc0\x00\x02\x01\xc6\x33\x64\x01\x9c\x40\x07\x5b"
	ssl := "\x20\x00\x10\x01\x00\x00\x00\x00\x22\x00\x08device-1"
	for _, test := range []struct{ name, in, remote, commonName, err string }{
		{"v1", "PROXY TCP4 192.0.2.1 198.51.100.1 40000 1883\r\n", "192.0.2.1:40000", "", ""},
		{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 40000 1883\r\n", "[2001:db8::1]:40000", "", ""},
		{"v1 unknown", "PROXY UNKNOWN\r\n", "", "", ""},
		{"v1 nonsense", "PROXY TCP4 x y 1 2\r\n", "", "", "PROXY header"},
		{"v1 of another family", "PROXY TCP4 2001:db8::1 2001:db8::2 40000 1883\r\n", "", "", "not an address of TCP4"},
		{"v1 half right", "PROXY TCP4 192.0.2.1 y 40000 1883\r\n", "", "", "PROXY header"},
		{"v1 port too large", "PROXY TCP4 192.0.2.1 198.51.100.1 40000 65536\r\n", "", "", `port "65536"`},
		{"v1 port with a zero in front", "PROXY TCP4 192.0.2.1 198.51.100.1 040 1883\r\n", "", "", `port "040"`},
		{"v1 without end", "PROXY " + strings.Repeat("x", 200), "", "", "a line without end"},
		{"v2", header2(1, 0x11, v4), "192.0.2.1:40000", "", ""},
		{"v2 with a certificate", header2(1, 0x11, v4+ssl), "192.0.2.1:40000", "device-1", ""},
		{"v2 local", header2(0, 0, ""), "", "", ""},
		{"v2 unix", header2(1, 0x31, strings.Repeat("x", 216)), "", "", ""},
		{"v2 too short", header2(1, 0x11, "\x01\x02"), "", "", "bytes of addresses"},
		{"v2 cut field", header2(1, 0x11, v4+"\x20\x00\xff"), "", "", "cut off"},
		{"v3", string(proxySignature) + "\x31\x11\x00\x00", "", "", "version"},
		{"none", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", "", "", "without PROXY header"},
		{"cut", "PROXY", "", "", "EOF"},
	} {
		info := &Info{}
		r := strings.NewReader(test.in + "REST")
		err := readProxy(r, info)
		remote := ""
		if info.Remote != nil {
			remote = info.Remote.String()
		}
		if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) && test.name != "cut" {
			t.Errorf("%s: %v, want %q", test.name, err, test.err)
			continue
		}
		if err == nil && remote != test.remote || info.CommonName != test.commonName {
			t.Errorf("%s: remote %q, name %q, want %q, %q", test.name, remote, info.CommonName, test.remote, test.commonName)
		}
		if rest, _ := io.ReadAll(r); err == nil && string(rest) != "REST" {
			t.Errorf("%s: %q is left to read, want REST", test.name, rest)
		}
	}
}

func TestProxyListener(t *testing.T) {
	s := serve(t, "mqtt://127.0.0.1:0", func(o *Options) { o.ProxyProtocol = true })
	nc, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprint(nc, "PROXY TCP4 192.0.2.1 198.51.100.1 40000 1883\r\nhello")
	conn := <-s.conn
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != "192.0.2.1:40000" {
		t.Errorf("RemoteAddr = %s, want what the header says", got)
	}
	l := &lent{b: make([]byte, 100)}
	if n, err := conn.ReadLent(l); err != nil || string(l.b[:n]) != "hello" {
		t.Errorf("read %q, %v", l.b[:n], err)
	}
}

func FuzzProxy(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.1 40000 1883\r\n"))
	f.Add([]byte(header2(1, 0x11, "\xc0\x00\x02\x01\xc6\x33\x64\x01\x9c\x40\x07\x5b")))
	f.Fuzz(func(t *testing.T, in []byte) {
		info := &Info{}
		if err := readProxy(bytes.NewReader(in), info); err == nil && info.Remote != nil && info.Remote.String() == "" {
			t.Errorf("%q: an address without text", in)
		}
	})
}
