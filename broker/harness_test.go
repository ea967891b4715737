package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/store/mem"
	"fairlead/store/storetest"
)

// world is a broker in a bubble of its own time.
type world struct {
	*testing.T
	o      Options
	b      *Broker
	faults *storetest.Faulty // with a store
}

// play runs f with a broker that keeps everything in memory and with one that has
// a store, and shuts it down: nothing may be left running.
func play(t *testing.T, o Options, f func(w *world)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) { playOne(t, o, f) })
	t.Run("store", func(t *testing.T) { playStored(t, o, f) })
}

// playStored runs f with a broker that has a store.
func playStored(t *testing.T, o Options, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, o: o, faults: storetest.NewFaulty(mem.New())}
		w.o.Store = w.faults
		defer func() { w.o.Store.Close() }()
		w.run(f)
	})
}

// crash ends the broker as kill -9 does, and starts another one with what its
// store holds. Clients have lost their connections.
func (w *world) crash() {
	w.Helper()
	next := w.faults.Crash(0)
	w.stop()
	w.faults, w.o.Store = next, next
	w.start()
}

// restart ends the broker properly, and starts another one.
func (w *world) restart() {
	w.Helper()
	w.stop()
	w.start()
}

// checkpoint lets one be written.
func (w *world) checkpoint() {
	time.Sleep(3 * time.Second)
	synctest.Wait()
}

// endings are the ways in which a broker ends between two halves of a
// conversation that must not notice it.
func endings(t *testing.T, o Options, f func(w *world, again func())) {
	t.Run("crash", func(t *testing.T) { playStored(t, o, func(w *world) { f(w, w.crash) }) })
	t.Run("crash after checkpoint", func(t *testing.T) {
		playStored(t, o, func(w *world) { f(w, func() { w.checkpoint(); w.crash() }) })
	})
	t.Run("two crashes", func(t *testing.T) {
		playStored(t, o, func(w *world) { f(w, func() { w.crash(); w.crash() }) })
	})
	t.Run("restart", func(t *testing.T) { playStored(t, o, func(w *world) { f(w, w.restart) }) })
}

func playOne(t *testing.T, o Options, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { (&world{T: t, o: o}).run(f) })
}

func (w *world) run(f func(w *world)) {
	w.start()
	defer w.stop()
	f(w)
}

func (w *world) start() {
	w.Helper()
	b, err := Open(w.Context(), w.o)
	if err != nil {
		w.Fatalf("Open: %v", err)
	}
	w.b = b
	synctest.Wait()
}

func (w *world) stop() {
	w.Helper()
	if err := w.b.Shutdown(context.Background()); err != nil {
		w.Errorf("Shutdown: %v", err)
	}
	synctest.Wait()
}

// limits are the default limits, changed by f.
func limits(f func(l *Limits)) *Limits {
	l := DefaultLimits()
	f(&l)
	return &l
}

// peer is a client that speaks packets, and says what it gets as one line each.
type peer struct {
	w      *world
	nc     net.Conn
	reader packet.Reader
	v      mqtt.Version
	nextID mqtt.PacketID
}

// dial opens a connection without a CONNECT.
func (w *world) dial() *peer {
	ours, theirs := net.Pipe()
	go w.b.Serve(listen.Wrap(theirs, listen.Info{Remote: theirs.RemoteAddr()}))
	return &peer{w: w, nc: ours}
}

// connect opens a connection and a Session; change may change the CONNECT.
func (w *world) connect(v mqtt.Version, id string, change ...func(c *packet.Connect)) *peer {
	w.Helper()
	p := w.dial()
	p.hello(v, id, change...)
	if got := p.next(); !strings.HasPrefix(got, "CONNACK") || strings.Contains(got, "0x8") {
		w.Fatalf("CONNECT of %s: %s", id, got)
	}
	return p
}

func (p *peer) hello(v mqtt.Version, id string, change ...func(c *packet.Connect)) {
	p.v, p.reader.Version = v, v
	c := &packet.Connect{Version: v, ClientID: id, CleanStart: true}
	if v >= mqtt.V5 {
		c.Properties = &packet.Properties{}
	}
	for _, f := range change {
		f(c)
	}
	p.send(c)
}

// Changes to a CONNECT.
func resume(c *packet.Connect) { c.CleanStart = false }

func expiry(seconds uint32) func(c *packet.Connect) {
	return func(c *packet.Connect) {
		c.CleanStart = false
		if c.Version >= mqtt.V5 {
			c.Properties.Mark(mqtt.SessionExpiryInterval)
			c.Properties.SessionExpiry = seconds
		}
	}
}

func receiveMaximum(n uint16) func(c *packet.Connect) {
	return func(c *packet.Connect) { c.Properties.Mark(mqtt.ReceiveMaximum); c.Properties.ReceiveMaximum = n }
}

func will(topic, payload string, delay uint32) func(c *packet.Connect) {
	return func(c *packet.Connect) {
		c.Will = &packet.Will{Topic: topic, Payload: []byte(payload), QoS: mqtt.QoS1, Delay: delay}
	}
}

func (p *peer) send(ps ...packet.Packet) {
	p.w.Helper()
	var b []byte
	for _, q := range ps {
		var err error
		if b, err = packet.Append(b, p.v, q); err != nil {
			p.w.Fatal(err)
		}
	}
	p.raw(b)
}

func (p *peer) raw(b []byte) {
	p.w.Helper()
	p.nc.SetWriteDeadline(time.Now().Add(time.Minute))
	if _, err := p.nc.Write(b); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		p.w.Fatalf("write: %v", err)
	}
}

func (p *peer) id() mqtt.PacketID {
	p.nextID++
	return p.nextID
}

func (p *peer) subscribe(filter string, q mqtt.QoS, change ...func(s *packet.Subscribe)) {
	p.w.Helper()
	s := &packet.Subscribe{ID: p.id(), Subscriptions: []packet.Subscription{{Filter: filter, QoS: q}}}
	for _, f := range change {
		f(s)
	}
	p.send(s)
	p.want(fmt.Sprintf("SUBACK %d %02x", s.ID, byte(q)))
}

func (p *peer) publish(topic, payload string, q mqtt.QoS, change ...func(m *packet.Publish)) {
	p.w.Helper()
	m := &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: q}
	if q > 0 {
		m.ID = p.id()
	}
	for _, f := range change {
		f(m)
	}
	p.send(m)
}

func asRetained(m *packet.Publish) { m.Retain = true }

// next is the next packet as one line; "closed" at the end of the connection,
// "silence" if nothing comes for ten seconds.
func (p *peer) next() string {
	p.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		q, err := p.reader.Next()
		if err == nil {
			return say(q)
		}
		if !errors.Is(err, packet.ErrMore) {
			return err.Error()
		}
		if n, err := p.reader.Fill(p.nc); n == 0 {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return "silence"
			}
			return "closed"
		}
	}
}

// want checks the next packets.
func (p *peer) want(lines ...string) {
	p.w.Helper()
	for _, want := range lines {
		if got := p.next(); got != want {
			p.w.Fatalf("got %q, want %q", got, want)
		}
	}
}

func (p *peer) close() {
	p.nc.Close()
	synctest.Wait()
}

func say(q packet.Packet) string {
	var b strings.Builder
	b.WriteString(q.Type().String())
	add := func(format string, args ...any) { fmt.Fprintf(&b, " "+format, args...) }
	switch q := q.(type) {
	case *packet.Connack:
		add("present=%v %v", q.SessionPresent, q.Reason)
	case *packet.Publish:
		add("%s %q", q.Topic, q.Payload)
		if q.QoS > 0 {
			add("qos=%d id=%d", q.QoS, q.ID)
		}
		if q.Dup {
			add("dup")
		}
		if q.Retain {
			add("retain")
		}
		if len(q.SubscriptionIDs) > 0 {
			add("via=%v", q.SubscriptionIDs)
		}
		if q.HasExpiry {
			add("expiry=%d", q.Expiry)
		}
		if q.TopicAlias > 0 {
			add("alias=%d", q.TopicAlias)
		}
	case *packet.Puback:
		add("%d %v", q.ID, q.Reason)
	case *packet.Pubrec:
		add("%d %v", q.ID, q.Reason)
	case *packet.Pubrel:
		add("%d", q.ID)
	case *packet.Pubcomp:
		add("%d %v", q.ID, q.Reason)
	case *packet.Suback:
		add("%d", q.ID)
		for _, r := range q.Reasons {
			add("%02x", byte(r))
		}
	case *packet.Unsuback:
		add("%d", q.ID)
		for _, r := range q.Reasons {
			add("%02x", byte(r))
		}
	case *packet.Disconnect:
		add("%v", q.Reason)
	case *packet.Auth:
		add("%v %s %q", q.Reason, q.Properties.AuthenticationMethod, q.Properties.AuthenticationData)
	}
	return b.String()
}
