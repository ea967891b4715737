package listen

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// certificate is made once for all tests.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// server is a Listener that runs until the test ends.
type server struct {
	*Listener
	t    *testing.T
	log  syncBuffer
	conn chan Conn
}

type syncBuffer struct {
	mu    sync.Mutex
	b     bytes.Buffer
	wrote chan struct{} // one token after a write
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.wrote <- struct{}{}:
	default:
	}
	return s.b.Write(b)
}

// await waits until text has been written.
func (s *syncBuffer) await(text string) bool {
	late := time.After(10 * time.Second)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.wrote:
		case <-late:
			return false
		}
	}
	return true
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func serve(t *testing.T, url string, change ...func(o *Options)) *server {
	t.Helper()
	u, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, conn: make(chan Conn, 100)}
	s.log.wrote = make(chan struct{}, 1)
	o := Options{URL: u, Logger: slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if u.TLS() {
		o.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}}
	}
	for _, f := range change {
		f(&o)
	}
	if s.Listener, err = Listen(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, func(_ context.Context, c Conn) { s.conn <- c }) }()
	t.Cleanup(func() {
		cancel()
		for {
			select {
			case c := <-s.conn:
				c.Close()
			case err := <-done: // Serve waits for all connections
				if !errors.Is(err, context.Canceled) {
					t.Errorf("Serve: %v", err)
				}
				return
			}
		}
	})
	return s
}

// dial connects as a client of the scheme would.
func (s *server) dial() net.Conn {
	s.t.Helper()
	if s.o.URL.WebSocket() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		config := &tls.Config{InsecureSkipVerify: true}
		ws, _, err := websocket.Dial(ctx, s.URL(), &websocket.DialOptions{Subprotocols: []string{"mqtt"},
			HTTPClient: httpClient(config)})
		if err != nil {
			s.t.Fatal(err)
		}
		ws.SetReadLimit(-1)
		return websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
	}
	network := "tcp"
	if s.o.URL.Scheme == Unix {
		network = "unix"
	}
	nc, err := net.Dial(network, s.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	if s.o.URL.TLS() {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
		if err := nc.(*tls.Conn).Handshake(); err != nil {
			s.t.Fatal(err)
		}
	}
	return nc
}

// pair is a client and the broker's side of it.
func (s *server) pair() (client net.Conn, conn Conn) {
	s.t.Helper()
	client = s.dial()
	conn = <-s.conn
	s.t.Cleanup(func() { conn.Close(); client.Close() })
	return client, conn
}

func urls(t *testing.T) []string {
	return []string{"mqtt://127.0.0.1:0", "mqtts://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0",
		"unix://" + filepath.Join(t.TempDir(), "s")}
}

// lent is a buffer that notes when it is held.
type lent struct {
	b    []byte
	held bool
}

func (l *lent) Lend() []byte { l.held = true; return l.b }
func (l *lent) Return()      { l.held = false }

// TestBytesArriveInOrder sends random sizes both ways over every transport; the
// writer uses TryWrite first and Write for what is left, and the reader is slow.
func TestBytesArriveInOrder(t *testing.T) {
	for _, url := range urls(t) {
		t.Run(url[:4], func(t *testing.T) {
			s := serve(t, url)
			client, conn := s.pair()
			if got := conn.Info().Scheme; got != string(s.o.URL.Scheme) {
				t.Errorf("scheme %q, want %q", got, s.o.URL.Scheme)
			}
			random := mrand.New(mrand.NewPCG(1, 1))
			const total = 16 << 20
			sum := make(chan uint32, 2)
			start := make(chan struct{})
			begin := sync.OnceFunc(func() { close(start) })
			go func() { // the client reads nothing until the socket is full
				<-start
				h := crc32.NewIEEE()
				io.CopyN(h, client, total)
				sum <- h.Sum32()
			}()
			h := crc32.NewIEEE()
			blocked := 0
			for sent := 0; sent < total; {
				b := make([]byte, min(total-sent, 1+random.IntN(200_000)))
				for i := range b {
					b[i] = byte(random.Uint32())
				}
				h.Write(b)
				sent += len(b)
				n, err := conn.TryWrite(b)
				if errors.Is(err, ErrWouldBlock) {
					blocked++
					begin()
					_, err = conn.Write(b[n:])
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			begin()
			if got := <-sum; got != h.Sum32() {
				t.Errorf("checksum %08x arrived, want %08x", got, h.Sum32())
			}
			if blocked == 0 {
				t.Error("the socket took everything at once: the test shows nothing")
			}
			inbound(t, client, conn, random)
		})
	}
}

func inbound(t *testing.T, client net.Conn, conn Conn, random *mrand.Rand) {
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	go func() {
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(100_000))
			if _, err := client.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		go client.Close() // waits for an answer to its goodbye
	}()
	var got bytes.Buffer
	l := &lent{b: make([]byte, 10_000)}
	for {
		n, err := conn.ReadLent(l)
		got.Write(l.b[:n])
		if n == 0 && l.held {
			t.Fatal("the buffer is held although nothing was read")
		}
		if err != nil {
			break
		}
	}
	if !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes arrived, want the %d that were sent", got.Len(), len(data))
	}
}

// TestPark wakes a parked connection when its client speaks, and when it goes.
func TestPark(t *testing.T) {
	for _, url := range urls(t) {
		t.Run(url[:4], func(t *testing.T) {
			client, conn := serve(t, url).pair()
			l := &lent{b: make([]byte, 100)}
			for i := range 3 {
				woken := make(chan struct{}, 10)
				if !conn.Park(func() { woken <- struct{}{} }) {
					t.Fatal("it can't be parked")
				}
				fmt.Fprint(client, "hello")
				<-woken
				if n, err := conn.ReadLent(l); err != nil || string(l.b[:n]) != "hello" {
					t.Fatalf("round %d: read %q, %v", i, l.b[:n], err)
				}
				if len(woken) > 0 {
					t.Error("woken twice")
				}
			}
			woken := make(chan struct{}, 10)
			conn.Park(func() { woken <- struct{}{} })
			go client.Close() // waits for an answer to its goodbye
			<-woken
			for { // TLS and WebSocket say goodbye first
				if _, err := conn.ReadLent(l); err != nil {
					break
				}
			}
		})
	}
}

// TestNoAllocation reads and writes on TCP.
func TestNoAllocation(t *testing.T) {
	client, conn := serve(t, "mqtt://127.0.0.1:0").pair()
	l := &lent{b: make([]byte, 100)}
	b := []byte("x")
	got := testing.AllocsPerRun(200, func() {
		if _, err := client.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.ReadLent(l); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.TryWrite(b); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Read(b); err != nil {
			t.Fatal(err)
		}
	})
	if got > 0 {
		t.Errorf("%v allocations for a read and a write, want none", got)
	}
}

func TestReadDeadline(t *testing.T) {
	for _, url := range urls(t) {
		t.Run(url[:4], func(t *testing.T) {
			client, conn := serve(t, url).pair()
			l := &lent{b: make([]byte, 100)}
			conn.SetReadDeadline(time.Now().Add(-time.Second))
			if _, err := conn.ReadLent(l); !errors.Is(err, os.ErrDeadlineExceeded) || l.held {
				t.Errorf("ReadLent = %v, held %v, want a passed deadline", err, l.held)
			}
			conn.SetReadDeadline(time.Time{})
			fmt.Fprint(client, "still there")
			if n, err := conn.ReadLent(l); err != nil || string(l.b[:n]) != "still there" {
				t.Errorf("read %q, %v after the deadline", l.b[:n], err)
			}
		})
	}
}

// TestWrongProtocol speaks the wrong protocol on each port: the log says what to do.
func TestWrongProtocol(t *testing.T) {
	hello := func(nc net.Conn) { tls.Client(nc, &tls.Config{InsecureSkipVerify: true}).Handshake() }
	connect := func(nc net.Conn) { nc.Write([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00")) }
	get := func(nc net.Conn) { io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }
	secretly := func(say func(net.Conn)) func(net.Conn) {
		return func(nc net.Conn) { say(tls.Client(nc, &tls.Config{InsecureSkipVerify: true})) }
	}
	for _, test := range []struct {
		url  string
		say  func(net.Conn)
		want string
	}{
		{"mqtts://127.0.0.1:0", secretly(get), "an HTTP or WebSocket client on an MQTT port"},
		{"mqtt://127.0.0.1:0", hello, "a TLS client on a port without TLS"},
		{"mqtt://127.0.0.1:0", get, "an HTTP or WebSocket client on an MQTT port"},
		{"mqtts://127.0.0.1:0", connect, "a client without TLS on a TLS port"},
		{"mqtts://127.0.0.1:0", get, "an HTTP or WebSocket client on an MQTT port"},
		{"ws://127.0.0.1:0", hello, "a TLS client on a port without TLS"},
		{"ws://127.0.0.1:0", connect, "an MQTT client without WebSocket on a WebSocket port"},
		{"wss://127.0.0.1:0", connect, "a client without TLS on a TLS port"},
		{"wss://127.0.0.1:0", get, "a client without TLS on a TLS port"},
	} {
		t.Run(test.url[:5]+test.want, func(t *testing.T) {
			s := serve(t, test.url)
			nc, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			go test.say(nc)
			go func() {
				select {
				case c := <-s.conn: // found out by the first read
					c.ReadLent(&lent{b: make([]byte, 100)})
					c.Close()
				case <-t.Context().Done():
				}
			}()
			if !s.log.await(test.want) || s.Strange.Load() != 1 || !strings.Contains(s.log.String(), "remote="+nc.LocalAddr().String()) {
				t.Errorf("log = %s, want %q and the client's address", s.log.String(), test.want)
			}
		})
	}
}

func TestMaxConnections(t *testing.T) {
	s := serve(t, "mqtt://127.0.0.1:0", func(o *Options) { o.MaxConnections = 1 })
	s.pair()
	second := s.dial()
	defer second.Close()
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("a second connection is served")
	}
	if s.Limited.Load() != 1 {
		t.Errorf("%d connections counted as refused, want 1", s.Limited.Load())
	}
}

// TestSlowHandshakes opens connections that never get to the point.
func TestSlowHandshakes(t *testing.T) {
	for _, test := range []struct {
		url   string
		proxy bool
	}{{"mqtts://127.0.0.1:0", false}, {"ws://127.0.0.1:0", false}, {"wss://127.0.0.1:0", false}, {"mqtt://127.0.0.1:0", true}} {
		s := serve(t, test.url, func(o *Options) { o.HandshakeTime, o.ProxyProtocol = 50*time.Millisecond, test.proxy })
		nc, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := io.Copy(io.Discard, nc); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v, want the end of the connection", test.url, err)
		}
		if len(s.conn) > 0 {
			t.Errorf("%s: a connection without handshake is served", test.url)
		}
	}
}

func TestPace(t *testing.T) {
	p := pace{every: 10}
	now := time.Unix(1000, 0)
	var waited []time.Duration
	for range 13 {
		waited = append(waited, max(p.next(now), 0))
	}
	if waited[9] != 0 || waited[10] != 100*time.Millisecond || waited[12] != 300*time.Millisecond {
		t.Errorf("waits = %v, want none for a second's worth and 100 ms more each then", waited)
	}
	if d := p.next(now.Add(time.Minute)); d > 0 {
		t.Errorf("a minute later the wait is %v, want none", d)
	}
}

func TestUnixSocketInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, "unix://"+path)
	u, _ := ParseURL("unix://" + path)
	if _, err := Listen(t.Context(), Options{URL: u}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second listener on the socket: %v, want that it is in use", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	u.Path = file
	if _, err := Listen(t.Context(), Options{URL: u}); err == nil {
		t.Error("a plain file is taken for a socket")
	}
}

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"mqtt://127.0.0.1:1883": "mqtt://127.0.0.1:1883", "tcp://h": "mqtt://h:1883", "ssl://[::1]:9": "mqtts://[::1]:9",
		"ws://:8083": "ws://:8083/mqtt", "wss://h/x/y": "wss://h:8084/x/y", "unix:///run/s": "unix:///run/s",
		"http://h": "", "mqtt://h/path": "", "mqtt://u:p@h": "", "unix://host/x": "", "": "", "mqtt://h?x": "",
		"mqtt://h:65536": "", "mqtt://h:0": "mqtt://h:0", "mqtt://h:x": "",
	} {
		got, err := ParseURL(in)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("ParseURL(%q) = %v, %v, want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]bool{"mqtt://127.0.0.1": true, "mqtt://127.8.8.8": true, "ws://localhost": true, "mqtt://[::1]": true,
		"mqtt://": false, "mqtt://0.0.0.0": false, "mqtt://192.168.0.1": false, "unix:///x": true, "mqtt://localhost.example": false} {
		if u, err := ParseURL(in); err != nil || u.Loopback() != want {
			t.Errorf("%s: loopback %v, %v, want %v", in, u.Loopback(), err, want)
		}
	}
}
