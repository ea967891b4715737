package admin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/auth"
	"fairlead/broker"
	"fairlead/device"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/policy"
)

// pipes is a listener of connections within the process.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

// TestSlowBody has a caller send half of a body, and then nothing: it has as long as
// bodyTime, and not longer.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := prepare(Options{Broker: new(stub)})
		if err != nil {
			t.Fatal(err)
		}
		who := func(*http.Request) (*caller, *Problem) { return &caller{role: local}, nil }
		h := s.server(t.Context(), who)
		ln := newPipes()
		served := make(chan error)
		go func() { served <- h.Serve(ln) }() // ends with Close
		nc := ln.dial()
		began := time.Now()
		if _, err := io.WriteString(nc, "POST /v1/groups HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"name\":"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); resp.StatusCode != http.StatusRequestTimeout || took != bodyTime {
			t.Errorf("%s after %v, want 408 after %v", resp.Status, took, bodyTime)
		}
		nc.Close()
		h.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// TestSlowStranger refuses somebody whose body goes on and on: it is read no longer than
// bodyTime, though nobody wants it.
func TestSlowStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := prepare(Options{Broker: new(stub)})
		if err != nil {
			t.Fatal(err)
		}
		h := s.server(t.Context(), func(*http.Request) (*caller, *Problem) { return nil, errWho })
		ln := newPipes()
		served := make(chan error)
		go func() { served <- h.Serve(ln) }() // ends with Close
		nc := ln.dial()
		began := time.Now()
		go io.Copy(io.Discard, nc) // ends with the connection
		_, err = io.WriteString(nc, "POST /v1/groups HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
		for err == nil {
			time.Sleep(time.Second)
			_, err = io.WriteString(nc, "x")
		}
		if took := time.Since(began); took > bodyTime+2*time.Second {
			t.Errorf("the connection is open for %v, want %v at most", took, bodyTime)
		}
		nc.Close()
		h.Close()
		<-served
	})
}

// TestSlowAnswer has a caller take nothing: its connection ends after answerWithin.
func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := prepare(Options{Broker: new(stub)})
		if err != nil {
			t.Fatal(err)
		}
		h := s.server(t.Context(), func(*http.Request) (*caller, *Problem) { return &caller{role: local}, nil })
		ln := newPipes()
		served := make(chan error)
		go func() { served <- h.Serve(ln) }() // ends with Close
		nc := ln.dial()
		began := time.Now()
		if _, err := io.WriteString(nc, "GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(answerWithin + time.Second)
		if _, err := io.Copy(io.Discard, nc); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		if took := time.Since(began); took != answerWithin+time.Second {
			t.Errorf("the connection is open after %v", took)
		}
		nc.Close()
		h.Close()
		<-served
	})
}

// TestLongAct has an answer take longer than a body may: the caller still gets it.
func TestLongAct(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doctor := func(ctx context.Context) []Finding {
			select {
			case <-ctx.Done():
				return []Finding{{Severity: Danger, What: "the caller is thought to be gone"}}
			case <-time.After(3 * bodyTime):
				return nil
			}
		}
		s, err := prepare(Options{Broker: new(stub), Doctor: doctor})
		if err != nil {
			t.Fatal(err)
		}
		h := s.server(t.Context(), func(*http.Request) (*caller, *Problem) { return &caller{role: local}, nil })
		ln := newPipes()
		served := make(chan error)
		go func() { served <- h.Serve(ln) }() // ends with Close
		nc := ln.dial()
		if _, err := io.WriteString(nc, "GET /v1/doctor HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := io.ReadAll(resp.Body); strings.Contains(string(text), "gone") {
			t.Errorf("%s", text)
		}
		nc.Close()
		h.Close()
		<-served
	})
}

// TestLargeBodies are refused, whatever they hold.
func TestLargeBodies(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("a", bodyBytes)
	_, err := f.local.AddGroup(t.Context(), GroupSpec{Name: "g", About: long})
	want(t, "a group", err, 413, "too large")
	_, err = f.local.ApplyPolicy(t.Context(), "p", []byte("# "+strings.Repeat(long, textBytes/bodyBytes)), AnyVersion)
	want(t, "a policy", err, 413, "too large")
	if _, err = f.local.ApplyPolicy(t.Context(), "p", []byte("# "+long), AnyVersion); err != nil {
		t.Error(err)
	}
	_, err = f.local.CheckPolicy(t.Context(), Question{Device: "t", Action: "connect", Text: strings.Repeat(long, questionBytes/bodyBytes+1)})
	want(t, "a question", err, 413, "too large")
	_, err = ask[Group](t.Context(), f.local, call{method: "POST", path: "/v1/groups", body: map[string]any{"name": "g", "abuot": "x"}})
	want(t, "an unknown field", err, 422, "abuot")
	resp, err := f.local.do(t.Context(), call{method: "POST", path: "/v1/groups", body: []byte("name: g")})
	if err == nil {
		resp.Body.Close()
	}
	want(t, "YAML where JSON is expected", err, 415, "")
}

// TestLimited counts connections by the address that they come from.
func TestLimited(t *testing.T) {
	l := newLimited(nil)
	at := func(s string) netip.Addr { return sourceOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s))) }
	for range sourceMax {
		if !l.enter(at("192.0.2.1:1")) {
			t.Fatal("no room for one that there is room for")
		}
	}
	if l.enter(at("192.0.2.1:2")) || l.enter(at("[::ffff:192.0.2.1]:2")) {
		t.Error("one address has more than it may")
	}
	if !l.enter(at("[2001:db8::1]:1")) {
		t.Error("another address has no room")
	}
	if at("[2001:db8::1]:1") != at("[2001:db8::2]:1") || at("[2001:db8::1]:1") == at("[2001:db8:0:1::1]:1") {
		t.Error("IPv6 counts by /64")
	}
	for i := l.all; i < connectionsMax; i++ {
		if !l.enter(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})) {
			t.Fatalf("no room for connection %d", i)
		}
	}
	if l.enter(at("192.0.2.9:1")) {
		t.Error("there are more than there may be")
	}
	l.leave(at("192.0.2.1:1"))
	if !l.enter(at("192.0.2.1:1")) {
		t.Error("there is no room after one has left")
	}
}

// TestLimitedHTTPS opens more connections than one address may have.
func TestLimitedHTTPS(t *testing.T) {
	f := newFixture(t)
	where := strings.TrimPrefix(f.URL(), "https://")
	var open []net.Conn
	for range sourceMax {
		nc, err := net.Dial("tcp", where)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		open = append(open, nc)
	}
	token := f.user(t, device.User{Name: "ann", Role: auth.RoleViewer})
	if _, err := f.remote(t, token, nil).Status(t.Context(), 0); err == nil {
		t.Error("there is room for one more")
	}
	for _, nc := range open {
		nc.Close()
	}
	for { // until the server has noticed
		_, err := f.remote(t, token, nil).Status(t.Context(), 0)
		if err == nil {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestUpgrade connects by MQTT over the socket, with the identity of the operator.
func TestUpgrade(t *testing.T) {
	registry := newFixture(t)
	chain, err := auth.New(auth.Options{Directory: registry.registry, Methods: []auth.Method{auth.Operator{}}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Open(t.Context(), broker.Options{Auth: chain, Admission: registry.policies})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, c := open(t, Options{Dir: dir, Broker: b})
	nc, err := DialMQTT(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	hello, err := packet.Append(nil, mqtt.V5, &packet.Connect{Version: mqtt.V5, CleanStart: true, ClientID: "me"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(hello); err != nil {
		t.Fatal(err)
	}
	r := packet.Reader{Version: mqtt.V5}
	next := func() (packet.Packet, error) {
		for {
			p, err := r.Next()
			if !errors.Is(err, packet.ErrMore) {
				return p, err
			}
			if _, err := r.Fill(nc); err != nil {
				return nil, err
			}
		}
	}
	p, err := next()
	if ack, ok := p.(*packet.Connack); err != nil || !ok || ack.Reason != mqtt.Success {
		t.Fatalf("%+v, %v", p, err)
	}
	members := b.Members()
	if len(members) != 1 || members[0].Identity == nil || members[0].Identity.Method != policy.MethodOperator || members[0].Identity.User != auth.OperatorName {
		t.Errorf("%+v", members)
	}
	if err := c.DisconnectClient(t.Context(), "me", ""); problemOf(t, err).Status != 409 {
		t.Errorf("without an audit log: %v", err)
	}
	if err := s.Close(); err != nil { // the connection is the broker's
		t.Fatal(err)
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if p, err := next(); err != nil {
		t.Errorf("%+v, %v: want DISCONNECT", p, err)
	}
}

// TestNoUpgrade asks for MQTT where there is none, and in other ways.
func TestNoUpgrade(t *testing.T) {
	f := newFixture(t)
	if _, err := DialMQTT(t.Context(), t.TempDir()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if nc, err := DialMQTT(ctx, f.o.Dir); err == nil {
		nc.Close()
		t.Error("a context that has ended does not matter")
	}
	err := f.local.tell(t.Context(), call{method: "GET", path: "/v1/mqtt"})
	want(t, "without asking for it", err, 426, "Upgrade: mqtt")
	admin := f.remote(t, f.user(t, device.User{Name: "ann", Role: auth.RoleAdmin}), nil)
	want(t, "over HTTPS", admin.tell(t.Context(), call{method: "GET", path: "/v1/mqtt"}), 403, Socket)
}

// TestConnect names what is no target.
func TestConnect(t *testing.T) {
	for _, target := range []Target{
		{}, {Dir: "a", Server: "https://b"}, {Server: "http://b"}, {Server: "https://"}, {Server: "https://ann:secret@b"}, {Server: "https://b/v1"}, {Server: "https://b?x"}, {Server: "::"},
	} {
		if _, err := Connect(t.Context(), target); err == nil || strings.Contains(err.Error(), "secret") && !strings.Contains(target.Server, "secret") {
			t.Errorf("%+v: %v", target, err)
		}
	}
	c, err := Connect(t.Context(), Target{Server: "https://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context(), 0); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
}

// TestNoRedirects keeps a token from other servers.
func TestNoRedirects(t *testing.T) {
	f := newFixture(t)
	c := f.remote(t, f.user(t, device.User{Name: "ann", Role: auth.RoleViewer}), nil)
	if _, err := c.read(t.Context(), "//v1/status"); problemOf(t, err).Status != http.StatusTemporaryRedirect {
		t.Errorf("a redirect: %v", err)
	}
}
