package broker

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
)

// faucet is a connection that gives the same bytes again and again, as often as
// it is asked to, and swallows what is written.
type faucet struct {
	net.Conn
	first, again []byte
	left         int // how often again is given
	written      int
}

func (f *faucet) ReadLent(l packet.Lender) (int, error) {
	b := f.first
	if f.first = nil; b == nil {
		if f.left <= 0 {
			return 0, io.EOF
		}
		f.left--
		b = f.again
	}
	return copy(l.Lend(), b), nil
}

func (f *faucet) Read([]byte) (int, error)            { return 0, io.EOF }
func (f *faucet) TryWrite(b []byte) (int, error)      { f.written += len(b); return len(b), nil }
func (f *faucet) Write(b []byte) (int, error)         { return f.TryWrite(b) }
func (f *faucet) Park(func()) bool                    { return false }
func (f *faucet) Info() listen.Info                   { return listen.Info{} }
func (f *faucet) Close() error                        { return nil }
func (f *faucet) RemoteAddr() net.Addr                { return &net.TCPAddr{} }
func (f *faucet) SetReadDeadline(at time.Time) error  { return nil }
func (f *faucet) SetWriteDeadline(at time.Time) error { return nil }

func frames(v mqtt.Version, ps ...packet.Packet) (b []byte) {
	for _, p := range ps {
		b, _ = packet.Append(b, v, p)
	}
	return b
}

// sink subscribes a session that swallows everything to filter.
func sink(b *Broker, id, filter string, q mqtt.QoS) *faucet {
	f := &faucet{}
	c := &conn{broker: b, nc: f, done: make(chan struct{}), version: mqtt.V311}
	s, _ := b.find(mqtt.ClientID(id))
	c.work = workPool.Get().(*work)
	s.begin(c, &session.Link{Version: mqtt.V311, SendMax: 65535}, &packet.Connack{})
	sub, _, _ := session.ParseSubscription(packet.Subscription{Filter: filter, QoS: q}, 0)
	s.state.Subscribe(sub)
	b.router.subscribe(s, sub)
	c.flushBatch()
	return f
}

// batch is how many PUBLISH packets come with one read.
const batch = 50

func benchPublish(b *testing.B, q mqtt.QoS, subscribers int) {
	br := New(Options{})
	var sinks []*faucet
	for i := range subscribers {
		sinks = append(sinks, sink(br, fmt.Sprint("s", i), "sensors/a/b", mqtt.QoS0))
	}
	var ps []packet.Packet
	for i := range batch {
		p := &packet.Publish{Topic: []byte("sensors/a/b"), Payload: make([]byte, 64), QoS: q}
		if q > 0 {
			p.ID = mqtt.PacketID(i + 1)
		}
		ps = append(ps, p)
	}
	pub := &faucet{
		first: frames(mqtt.V311, &packet.Connect{Version: mqtt.V311, ClientID: "pub", CleanStart: true}),
		again: frames(mqtt.V311, ps...), left: b.N/batch + 1,
	}
	b.ReportAllocs()
	b.ResetTimer()
	br.Serve(pub)
	b.StopTimer()
	if len(sinks) > 0 && sinks[0].written < b.N*70 {
		b.Fatalf("a subscriber got %d bytes for %d messages", sinks[0].written, b.N)
	}
	if n := br.Dropped(); n > 0 {
		b.Fatalf("%d messages dropped", n)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, subscribers := range []int{0, 1, 10, 500} {
		for q := range mqtt.QoS2 {
			b.Run(fmt.Sprintf("qos=%d/subscribers=%d", q, subscribers), func(b *testing.B) { benchPublish(b, q, subscribers) })
		}
	}
}

// BenchmarkRoute asks for routes that are remembered by the router, not by the
// connection.
func BenchmarkRoute(b *testing.B) {
	br := New(Options{})
	const n = 10_000
	names := make([][]byte, n)
	for i := range names {
		names[i] = []byte(fmt.Sprintf("site/%d/sensor/%d", i%100, i))
		sink(br, fmt.Sprint("s", i), string(names[i]), mqtt.QoS0)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if r, err := br.router.route(names[i%n]); err != nil || len(r.targets) != 1 {
			b.Fatal(r, err)
		}
	}
}
