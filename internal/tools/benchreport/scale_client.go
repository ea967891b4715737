package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// A client is one MQTT 5 connection without a goroutine of its own.
type client struct {
	net.Conn
	reader  packet.Reader
	out     []byte
	present bool // the broker had its session
	window  int  // the broker's Receive Maximum
}

// replyPatience is how long a broker may be silent where something is expected.
const replyPatience = 5 * time.Minute

// A login is how a client connects.
type login struct {
	id             string
	durable        bool        // the session outlives the connection for ever
	user, password string      // none is shown if user is empty
	tls            *tls.Config // nil: plaintext
}

// dial connects anonymously to the loopback port.
func dial(ctx context.Context, port, id string, durable bool) (*client, error) {
	return login{id: id, durable: durable}.dial(ctx, port)
}

// connect is what the client says first.
func (o login) connect() *packet.Connect {
	p := &packet.Properties{ReceiveMaximum: math.MaxUint16}
	p.Mark(mqtt.ReceiveMaximum)
	if o.durable {
		p.SessionExpiry = math.MaxUint32
		p.Mark(mqtt.SessionExpiryInterval)
	}
	shown := o.user != ""
	return &packet.Connect{
		Version: mqtt.V5, ClientID: o.id, CleanStart: !o.durable, Properties: p,
		HasUser: shown, User: o.user, HasPassword: shown, Password: []byte(o.password),
	}
}

// dial connects to the loopback port.
func (o login) dial(ctx context.Context, port string) (*client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	if o.tls != nil {
		secure := tls.Client(nc, o.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, fmt.Errorf("connect %s: %w", o.id, err)
		}
		nc = secure
	}
	c := &client{Conn: nc, window: math.MaxUint16}
	c.reader.Version = mqtt.V5
	answer, err := c.ask(o.connect(), packet.CONNACK)
	if err != nil {
		nc.Close()
		return nil, err
	}
	connack := answer.(*packet.Connack)
	if connack.Reason.Failed() {
		nc.Close()
		return nil, fmt.Errorf("connect %s: %v", o.id, connack.Reason)
	}
	c.present = connack.SessionPresent
	if connack.Properties.Has(mqtt.ReceiveMaximum) {
		c.window = int(connack.Properties.ReceiveMaximum)
	}
	return c, nil
}

func (c *client) subscribe(filter string) error {
	answer, err := c.ask(subscription(filter), packet.SUBACK)
	if err != nil {
		return err
	}
	if r := answer.(*packet.Suback).Reasons[0]; r.Failed() {
		return fmt.Errorf("subscribe to %s: %v", filter, r)
	}
	return nil
}

func subscription(filter string) *packet.Subscribe {
	return &packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: filter, QoS: mqtt.QoS1}}}
}

// send writes a packet.
func (c *client) send(p packet.Packet) error {
	b, err := packet.Append(nil, c.reader.Version, p)
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

// ask sends a packet and reads the answer, which must come next.
func (c *client) ask(p packet.Packet, want packet.Type) (packet.Packet, error) {
	if err := c.send(p); err != nil {
		return nil, err
	}
	var answer packet.Packet
	err := c.read(func(q packet.Packet) bool { answer = q; return false })
	if err != nil {
		return nil, fmt.Errorf("answer to %s: %w", p.Type(), err)
	}
	if answer.Type() != want {
		return nil, fmt.Errorf("%s came in answer to %s, expected %s", answer.Type(), p.Type(), want)
	}
	return answer, nil
}

var errGone = errors.New("the broker has disconnected us")

// read hands over the packets that come until take says that they are enough. QoS 1
// messages are acknowledged, many in one write.
func (c *client) read(take func(packet.Packet) (more bool)) error {
	for {
		q, err := c.reader.Next()
		if errors.Is(err, packet.ErrMore) {
			if err := c.flush(); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(replyPatience))
			if _, err := c.reader.Fill(c.Conn); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		switch q := q.(type) {
		case *packet.Publish:
			if q.QoS == mqtt.QoS1 {
				c.out = packet.AppendAck(c.out, c.reader.Version, packet.PUBACK, q.ID, mqtt.Success)
			}
		case *packet.Disconnect:
			return fmt.Errorf("%w: %v", errGone, q.Reason)
		}
		if !take(q) {
			return c.flush()
		}
	}
}

func (c *client) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Write(c.out)
	c.out = c.out[:0]
	return err
}

// leave disconnects, waits until the broker has closed the connection, and gives the
// port back at once: a million clients one after the other would use up all of them.
func (c *client) leave() error {
	err := c.send(&packet.Disconnect{})
	c.SetReadDeadline(time.Now().Add(time.Second))
	c.Read(make([]byte, 1))
	c.abandon()
	return err
}

// abandon closes the connection without a word, and gives the port back at once.
func (c *client) abandon() {
	plain := c.Conn
	if secure, ok := plain.(*tls.Conn); ok {
		plain = secure.NetConn()
	}
	if tcp, ok := plain.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	plain.Close()
}

// publication is a row of messages with the numbers 0 to n-1, which their payloads
// begin with.
type publication struct {
	n      int
	retain bool
	topic  func(i int) string
}

const (
	publishers   = 4
	payloadBytes = 64
	batchMax     = 64 // messages in one write
)

// publish sends all of them over four connections: publisher p those whose number is p
// modulo four. It returns when all are acknowledged, or with the first error.
func (pub publication) publish(ctx context.Context, port string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for first := range publishers {
		wg.Go(func() { // ends with its messages, or ctx
			if err := pub.part(ctx, port, first); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (pub publication) part(ctx context.Context, port string, first int) error {
	c, err := dial(ctx, port, fmt.Sprintf("publisher-%d", first), false)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	payload := make([]byte, payloadBytes)
	next, inFlight, id := first, 0, mqtt.PacketID(0)
	var b []byte
	for next < pub.n || inFlight > 0 {
		b = b[:0]
		for range batchMax {
			if next >= pub.n || inFlight == c.window {
				break
			}
			id = id%math.MaxUint16 + 1
			binary.BigEndian.PutUint64(payload, uint64(next))
			m := packet.Publish{QoS: mqtt.QoS1, Retain: pub.retain, ID: id, Topic: []byte(pub.topic(next)), Payload: payload}
			b = packet.AppendPublish(b, c.reader.Version, &m)
			next += publishers
			inFlight++
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
		if len(b) > 0 && inFlight < c.window && next < pub.n {
			continue // fill the window before waiting
		}
		acked, err := c.acks()
		if err != nil {
			return err
		}
		inFlight -= acked
	}
	return nil
}

// acks waits for acknowledgements and counts those that have come.
func (c *client) acks() (n int, err error) {
	var refused error
	err = c.read(func(q packet.Packet) bool {
		if a, ok := q.(*packet.Puback); ok {
			n++
			if a.Reason.Failed() {
				refused = fmt.Errorf("message refused: %v", a.Reason)
			}
		}
		return refused == nil && (n == 0 || c.reader.Buffered() > 0)
	})
	return n, errors.Join(err, refused)
}

// number is what a payload begins with.
func number(payload []byte) (i int, ok bool) {
	if len(payload) != payloadBytes {
		return 0, false
	}
	n := binary.BigEndian.Uint64(payload)
	return int(n), n < math.MaxInt32
}

// tally counts messages that were numbered from 0.
type tally struct {
	seen        []uint64 // a bit for each
	last        [publishers]int
	n           int // different ones
	duplicates  int
	disordered  int // behind a later one of its publisher
	unexplained int // not ours
}

func newTally(n int) *tally {
	t := &tally{seen: make([]uint64, (n+63)/64)}
	for i := range t.last {
		t.last[i] = -1
	}
	return t
}

// add counts the message with the payload.
func (t *tally) add(payload []byte) {
	i, ok := number(payload)
	if !ok || i/64 >= len(t.seen) {
		t.unexplained++
		return
	}
	bit := uint64(1) << (i % 64)
	if t.seen[i/64]&bit != 0 {
		t.duplicates++
		return
	}
	t.seen[i/64] |= bit
	t.n++
	if i < t.last[i%publishers] {
		t.disordered++
	}
	t.last[i%publishers] = max(i, t.last[i%publishers])
}

// merge adds what o has counted.
func (t *tally) merge(o *tally) {
	t.n += o.n
	t.duplicates += o.duplicates
	t.disordered += o.disordered
	t.unexplained += o.unexplained
}
