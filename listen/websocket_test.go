package listen

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fairlead/mqtt/packet"
)

func httpClient(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
}

// masked is one frame of a client.
func masked(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{7, 1, 0xFE, 0x55}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i&3])
	}
	return b
}

// scripted is a connection underneath that gives bytes in chunks and keeps what
// is written.
type scripted struct {
	net.Conn
	chunks [][]byte
	out    bytes.Buffer
}

func (s *scripted) ReadLent(l packet.Lender) (int, error) {
	if len(s.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(l.Lend(), s.chunks[0])
	if s.chunks[0] = s.chunks[0][n:]; len(s.chunks[0]) == 0 {
		s.chunks = s.chunks[1:]
	}
	return n, nil
}

func (s *scripted) TryWrite(b []byte) (int, error)   { return s.out.Write(b) }
func (s *scripted) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }
func (s *scripted) Park(func()) bool                 { return false }
func (s *scripted) Info() Info                       { return Info{} }
func (s *scripted) Close() error                     { return nil }

// unframeAll reads everything that a client has sent, in chunks of the given size.
func unframeAll(in []byte, chunk int) (data, out string, err error) {
	s := &scripted{}
	for len(in) > 0 {
		n := min(chunk, len(in))
		s.chunks = append(s.chunks, bytes.Clone(in[:n]))
		in = in[n:]
	}
	c := &wsConn{Conn: s}
	var all bytes.Buffer
	l := &lent{b: make([]byte, 64)}
	for err == nil {
		var n int
		n, err = c.ReadLent(l)
		all.Write(l.b[:n])
	}
	c.TryWrite([]byte("late"))
	c.Close()
	return all.String(), s.out.String(), err
}

// closeFrames counts the close frames in what a server has sent, and reports
// whether anything follows the first.
func closeFrames(out string) (n int, followed bool) {
	for len(out) > 1 {
		size := 2 + int(out[1])
		if out[0] == 0x80|opClose {
			n++
		} else {
			followed = followed || n > 0
		}
		out = out[min(size, len(out)):]
	}
	return n, followed
}

func TestFrames(t *testing.T) {
	long := strings.Repeat("0123456789", 10_000)
	for _, test := range []struct {
		name, in, data, out, err string
	}{
		{"one", string(masked(0x82, []byte("abc"))), "abc", "", "EOF"},
		{"empty", string(masked(0x82, nil)) + string(masked(0x82, []byte("x"))), "x", "", "EOF"},
		{"long", string(masked(0x82, []byte(long))), long, "", "EOF"},
		{"fragments", string(masked(0x02, []byte("a"))) + string(masked(0x00, []byte("b"))) + string(masked(0x80, []byte("c"))), "abc", "", "EOF"},
		{"ping between fragments", string(masked(0x02, []byte("a"))) + string(masked(0x89, []byte("hi"))) + string(masked(0x80, []byte("c"))), "ac", "\x8a\x02hi", "EOF"},
		{"pong", string(masked(0x8A, nil)) + string(masked(0x82, []byte("x"))), "x", "", "EOF"},
		{"close", string(masked(0x88, []byte("\x03\xe8bye"))), "", "\x88\x02\x03\xe8", "EOF"},
		{"empty close", string(masked(0x88, nil)), "", "\x88\x00", "EOF"},
		{"ping and close", string(masked(0x89, nil)) + string(masked(0x88, []byte("\x0b\xb8"))), "", "\x8a\x00\x88\x02\x0b\xb8", "EOF"},
		{"close with half a code", string(masked(0x88, []byte("x"))), "", "\x88\x20\x03\xea", "half a code"},
		{"close with a reserved code", string(masked(0x88, []byte("\x03\xed"))), "", "\x88\x1d\x03\xea", "1005"},
		{"close with a small code", string(masked(0x88, []byte("\x03\xe7"))), "", "\x88\x1c\x03\xea", "999"},
		{"close with bad text", string(masked(0x88, []byte("\x03\xe8\xff"))), "", "\x88\x27\x03\xef", "not UTF-8"},
		{"text", string(masked(0x81, []byte("x"))), "", "\x88", "a text frame"},
		{"not masked", "\x82\x01x", "", "\x88", "not masked"},
		{"reserved bit", string(masked(0xC2, []byte("x"))), "", "\x88", "reserved bit"},
		{"reserved opcode", string(masked(0x83, []byte("x"))), "", "\x88", "opcode 3"},
		{"long ping", string(masked(0x89, []byte(long[:126]))), "", "\x88", "control frame"},
		{"fragmented ping", string(masked(0x09, []byte("x"))), "", "\x88", "control frame"},
		{"continuation of nothing", string(masked(0x80, []byte("x"))), "", "\x88", "out of order"},
		{"data inside a fragmented message", string(masked(0x02, []byte("a"))) + string(masked(0x82, []byte("b"))), "a", "\x88", "out of order"},
		{"absurd length", "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", "", "\x88", "length"},
	} {
		for _, chunk := range []int{1, 2, 3, 7, 64, 1 << 20} {
			data, out, err := unframeAll([]byte(test.in), chunk)
			if data != test.data || !strings.HasPrefix(out, test.out) || err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s in chunks of %d: data %.20q, out %q, %v, want %.20q, %q, %q", test.name, chunk, data, out, err, test.data, test.out, test.err)
			}
			if n, followed := closeFrames(out); n != 1 || followed {
				t.Errorf("%s in chunks of %d: %d close frames in %q, more behind them: %v, want one at the end", test.name, chunk, n, out, followed)
			}
		}
	}
}

// FuzzUnframe wants the same data from the same bytes, however they are cut.
func FuzzUnframe(f *testing.F) {
	f.Add(masked(0x82, []byte("abc")), 2)
	f.Add(append(masked(0x02, []byte("a")), masked(0x89, []byte("hi"))...), 1)
	f.Add([]byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"), 5)
	f.Fuzz(func(t *testing.T, in []byte, chunk int) {
		if chunk < 1 || len(in) > 10_000 {
			return
		}
		data, _, err := unframeAll(in, chunk)
		whole, _, wholeErr := unframeAll(in, len(in)+1)
		if data != whole || fmt.Sprint(err) != fmt.Sprint(wholeErr) {
			t.Errorf("in chunks of %d: %q, %v; whole: %q, %v", chunk, data, err, whole, wholeErr)
		}
	})
}

func TestUpgradeRefusals(t *testing.T) {
	s := serve(t, "ws://127.0.0.1:0", func(o *Options) { o.Origins = []string{"good.example"} })
	good := "GET /any HTTP/1.1\r\nHost: broker:8083\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"
	for _, test := range []struct{ name, request, want string }{
		{"good", good, "101 "},
		{"plain GET", "GET / HTTP/1.1\r\nHost: x\r\n", "426 "},
		{"old version", strings.Replace(good, "13", "8", 1), "426 "},
		{"no key", strings.Replace(good, "dGhlIHNhbXBsZSBub25jZQ==", "short", 1), "400 "},
		{"no sub-protocol", strings.Replace(good, "mqtt", "chat", 1), "400 "},
		{"another page", good + "Origin: https://evil.example\r\n", "403 "},
		{"its own page", good + "Origin: http://broker:8083\r\n", "101 "},
		{"a page of this machine", good + "Origin: http://localhost:3000\r\n", "101 "},
		{"a listed page", good + "Origin: https://good.example\r\n", "101 "},
		{"a page without host", good + "Origin: null\r\n", "403 "},
	} {
		nc, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(nc, test.request+"\r\n")
		line, _ := bufio.NewReader(nc).ReadString('\n')
		if !strings.Contains(line, test.want) {
			t.Errorf("%s: %q, want %s", test.name, line, test.want)
		}
		nc.Close()
	}
}
