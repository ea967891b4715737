package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// pipe is a connection that gives what was put in, in pieces of a size, and keeps what
// was written.
type pipe struct {
	net.Conn
	in    []byte
	piece int
	out   []byte
}

func (p *pipe) Read(b []byte) (int, error) {
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.piece)], p.in)
	p.in = p.in[n:]
	return n, nil
}

func (p *pipe) Write(b []byte) (int, error) {
	p.out = append(p.out, b...)
	return len(b), nil
}

// encoded are packets as they are on the wire.
func encoded(t *testing.T, v mqtt.Version, packets ...packet.Packet) []byte {
	t.Helper()
	var b []byte
	for _, p := range packets {
		var err error
		if b, err = packet.Append(b, v, p); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestLoggingPackets(t *testing.T) {
	assigned := &packet.Properties{AssignedClientID: "auto-1"}
	assigned.Mark(mqtt.AssignedClientIdentifier)
	why := &packet.Properties{ReasonString: "no such\x07topic"}
	why.Mark(mqtt.ReasonString)
	method := &packet.Properties{AuthenticationMethod: "SCRAM-SHA-256"}
	method.Mark(mqtt.AuthenticationMethod)
	sent := encoded(t, mqtt.V5,
		&packet.Connect{Version: mqtt.V5, CleanStart: true},
		&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: "a/#", QoS: 1}, {Filter: "b", NoLocal: true, RetainAsPublished: true, RetainHandling: 2}}},
		&packet.Publish{QoS: mqtt.QoS1, Dup: true, Retain: true, ID: 2, Topic: []byte("a/b"), Payload: []byte("hello")},
		&packet.Publish{Topic: nil, TopicAlias: 3, Payload: []byte("x")},
		&packet.Pubrec{ID: 7}, &packet.Pubrel{ID: 8}, &packet.Pubcomp{ID: 9}, &packet.Puback{ID: 10},
		&packet.Unsubscribe{ID: 3, Filters: []string{"a/#", "b"}},
		&packet.Pingreq{}, &packet.Auth{Reason: mqtt.ContinueAuthentication, Properties: method}, &packet.Disconnect{})
	received := encoded(t, mqtt.V5,
		&packet.Connack{Properties: assigned},
		&packet.Suback{ID: 1, Reasons: []mqtt.ReasonCode{mqtt.GrantedQoS1, mqtt.NotAuthorized}},
		&packet.Puback{ID: 2, Reason: mqtt.NotAuthorized, Properties: why},
		&packet.Publish{QoS: mqtt.QoS2, ID: 7, Topic: []byte("a\x1b"), Payload: nil},
		&packet.Pubrec{ID: 4}, &packet.Pubrec{ID: 5, Reason: mqtt.NoMatchingSubscribers},
		&packet.Pubrel{ID: 7}, &packet.Unsuback{ID: 3, Reasons: []mqtt.ReasonCode{mqtt.Success}}, &packet.Pingresp{},
		&packet.Disconnect{Reason: mqtt.SessionTakenOver})
	const want = `Client (null) sending CONNECT
Client (null) sending SUBSCRIBE (Mid: 1, Topic: a/#, QoS: 1, Options: 0x00, Topic: b, QoS: 0, Options: 0x2c)
Client (null) sending PUBLISH (d1, q1, r1, m2, 'a/b', ... (5 bytes))
Client (null) sending PUBLISH (d0, q0, r0, m0, '' alias 3, ... (1 bytes))
Client (null) sending PUBREC (m7, rc0)
Client (null) sending PUBREL (m8)
Client (null) sending PUBCOMP (m9, rc0)
Client (null) sending PUBACK (m10, rc0)
Client (null) sending UNSUBSCRIBE (Mid: 3, Topic: a/#, b)
Client (null) sending PINGREQ
Client (null) sending AUTH (rc24)
Client (null) sending DISCONNECT
Client auto-1 received CONNACK (0)
Client auto-1 received SUBACK (Mid: 1, RC: 1, 135: 0x87 Not authorized)
Client auto-1 received PUBACK (Mid: 2, RC:135: 0x87 Not authorized: "no such\atopic")
Client auto-1 received PUBLISH (d0, q2, r0, m7, 'a\x1b', ... (0 bytes))
Client auto-1 received PUBREC (Mid: 4)
Client auto-1 received PUBREC (Mid: 5, RC:16)
Client auto-1 received PUBREL (Mid: 7)
Client auto-1 received UNSUBACK (Mid: 3, RC: 0)
Client auto-1 received PINGRESP
Client auto-1 received DISCONNECT (142: 0x8E Session taken over)
`
	for _, piece := range []int{1, 3, 1000} { // however the network cuts it
		p := &pipe{in: received, piece: piece}
		var b strings.Builder
		dial := loggingPackets(func(context.Context) (net.Conn, error) { return p, nil }, &b, mqtt.V5, "")
		nc, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for rest := sent; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			if _, err := nc.Write(rest[:min(piece, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := io.ReadAll(nc); err != nil || string(got) != string(received) || string(p.out) != string(sent) {
			t.Errorf("pieces of %d: the bytes are not what they were: %v", piece, err)
		}
		if b.String() != want {
			t.Errorf("pieces of %d:\n%swant:\n%s", piece, b.String(), want)
		}
	}
}

// TestLoggingWhatIsNoPacket says so once and leaves the bytes alone.
func TestLoggingWhatIsNoPacket(t *testing.T) {
	p := &pipe{in: []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), piece: 5}
	var b strings.Builder
	fail := errors.New("connection refused")
	dial := loggingPackets(func(context.Context) (net.Conn, error) { return p, fail }, &b, mqtt.V311, "me")
	if _, err := dial(t.Context()); !errors.Is(err, fail) || b.String() != "Client me cannot connect: connection refused\n" {
		t.Errorf("%v, %q", err, b.String())
	}
	fail = nil
	b.Reset()
	nc, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(nc); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400") {
		t.Errorf("%q, %v", got, err)
	}
	if strings.Count(b.String(), "\n") != 1 || !strings.HasPrefix(b.String(), "Client me received what is no packet: ") {
		t.Errorf("got %q", b.String())
	}
}

func FuzzLoggingPackets(f *testing.F) {
	f.Add([]byte{0x20, 0x03, 0x00, 0x00, 0x00, 0xD0, 0x00}, true)
	f.Add([]byte("\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00"), false)
	f.Fuzz(func(t *testing.T, b []byte, v5 bool) {
		v := mqtt.V311
		if v5 {
			v = mqtt.V5
		}
		p := &pipe{in: b, piece: 7}
		var out strings.Builder
		nc, err := loggingPackets(func(context.Context) (net.Conn, error) { return p, nil }, &out, v, "x")(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write(b); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(nc); err != nil || string(got) != string(b) || string(p.out) != string(b) {
			t.Errorf("the bytes are not what they were: %v", err)
		}
		for line := range strings.Lines(out.String()) {
			if !strings.HasPrefix(line, "Client ") || !strings.HasSuffix(line, "\n") {
				t.Errorf("line %q", line)
			}
		}
	})
}
