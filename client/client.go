// Package client is an MQTT client for MQTT 3.1, 3.1.1 and 5.0.
//
// Begin with [Dial]. [Client.Publish] returns when the message's QoS is
// complete, [Client.Subscribe] when the broker has answered; messages come to
// Options.Handler or through [Client.Receive].
//
//	c, err := client.Dial(ctx, client.Options{URL: "mqtt://127.0.0.1:1883"})
//	if err != nil {
//		return err
//	}
//	defer c.Disconnect(ctx)
//	if _, err := c.Subscribe(ctx, []client.Subscription{{Filter: "a/#", QoS: mqtt.QoS1}}, nil); err != nil {
//		return err
//	}
//	for m, err := range c.Messages(ctx) {
//		…
//	}
//
// The session lives in memory: what was on its way when the process ended is
// not sent again. Every queue has a limit that [Options] names.
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// A Client is a client's session with a broker, over one Network Connection or,
// with Options.Reconnect, one after the other. Its methods may be called from
// any goroutine.
type Client struct {
	options Options
	inbox   chan *Message
	done    chan struct{} // closed when the client has ended; err is valid then
	stop    context.CancelFunc

	mu       sync.Mutex // guards what follows, and the marked fields of link
	err      error      // why the client has ended
	closing  bool       // Disconnect was called
	link     *link      // nil while there is none
	connack  *packet.Connack
	clientID string
	changed  chan struct{} // closed at the next change that someone waits for; nil: nobody
	dropped  uint64
	reauth   *reauthentication

	lastID     mqtt.PacketID
	sent       uint64                      // publishes so far, for their order
	deliveries map[mqtt.PacketID]*Delivery // at most Options.InflightMax
	resend     []*Delivery                 // of an earlier connection, in order, not sent on this one
	requests   map[mqtt.PacketID]*request  // SUBSCRIBE and UNSUBSCRIBE without answer
	granted    []subscribed                // what to subscribe again
	received   map[mqtt.PacketID]*receipt  // inbound QoS 2 before PUBREL, at most 65,535
}

// Dial connects to the broker. The error is a [*ReasonError] if the broker said
// no. ctx bounds the connecting only; end the client with [Client.Disconnect].
func Dial(ctx context.Context, o Options) (*Client, error) {
	userFromURL(&o)
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{
		options:    o,
		inbox:      make(chan *Message, o.InboundMax),
		done:       make(chan struct{}),
		clientID:   o.ClientID,
		deliveries: make(map[mqtt.PacketID]*Delivery),
		requests:   make(map[mqtt.PacketID]*request),
		received:   make(map[mqtt.PacketID]*receipt),
	}
	l, connack, err := c.open(ctx, false)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	c.attach(l, connack)
	go c.run(life, l) // until the client ends; it closes c.done
	if o.Handler != nil {
		go c.handle() // until c.done is closed and the inbox is empty
	}
	return c, nil
}

// userFromURL moves a user and password from the URL to their fields.
func userFromURL(o *Options) {
	u, err := url.Parse(o.URL)
	if err != nil || u.User == nil || o.User != "" || o.Password != nil {
		return
	}
	o.User = u.User.Username()
	if pw, ok := u.User.Password(); ok {
		o.Password = []byte(pw)
	}
}

// randomID is a Client Identifier of 21 letters and digits, which every version
// and broker takes [MQTT-3.1.3-5].
func randomID() string { return "fl" + rand.Text()[:19] }

// ClientID is the Client Identifier, the broker's if it has assigned one.
func (c *Client) ClientID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clientID
}

// Connack is the broker's latest CONNACK. Do not change it.
func (c *Client) Connack() *packet.Connack {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connack
}

// Dropped counts QoS 0 messages that found no room; see Options.DropQoS0.
func (c *Client) Dropped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

// Done is closed when the client has ended: after Disconnect, or when the
// connection is lost for good. [Client.Err] says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the client has ended: [ErrClosed] after Disconnect, nil while it
// runs.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Disconnect sends what waits, then DISCONNECT with Normal disconnection, and
// closes the connection. What the broker has not acknowledged by then ends with
// ErrClosed. It returns the error that had ended the client before, if any.
func (c *Client) Disconnect(ctx context.Context) error {
	return c.DisconnectWith(ctx, &packet.Disconnect{})
}

// DisconnectWith is Disconnect with a Reason Code and properties of the
// caller's (5.0), for example to have the Will sent or the session expire
// later.
func (c *Client) DisconnectWith(ctx context.Context, d *packet.Disconnect) error {
	c.mu.Lock()
	ended := c.err
	c.closing = true
	l := c.link
	c.mu.Unlock()
	if l != nil {
		l.part(ErrClosed, d)
	}
	c.stop()
	select {
	case <-c.done:
	case <-ctx.Done():
		if l != nil {
			_ = l.nc.Close()
		}
		<-c.done
	}
	if errors.Is(ended, ErrClosed) {
		return nil
	}
	return ended
}

// run serves l and, if the options say so, the connections after it.
func (c *Client) run(ctx context.Context, l *link) {
	defer c.stop()
	for {
		cause := c.serve(l)
		c.detach(l, cause)
		if !c.mayReconnect(cause) {
			c.finish(cause)
			return
		}
		var err error
		if l, err = c.redial(ctx); err != nil {
			c.finish(err)
			return
		}
	}
}

// serve runs the link's loops until it ends, and returns why.
func (c *Client) serve(l *link) error {
	var loops sync.WaitGroup
	loops.Go(l.writeLoop)
	loops.Go(l.keepAliveLoop)
	loops.Go(func() { l.readLoop(func(p packet.Packet) error { return c.take(l, p) }) })
	loops.Wait()
	return l.cause
}

func (c *Client) mayReconnect(cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.options.Reconnect && !c.closing && temporary(cause)
}

// redial connects again, for as long as it may help.
func (c *Client) redial(ctx context.Context) (*link, error) {
	for wait := c.options.BackoffMin; ; wait = min(2*wait, c.options.BackoffMax) {
		// Half the wait is chance: a thousand clients that lost one broker must
		// not come back at one moment.
		timer := time.NewTimer(wait/2 + mathrand.N(wait/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ErrClosed
		}
		l, connack, err := c.open(ctx, true)
		if err == nil {
			c.attach(l, connack)
			return l, nil
		}
		if ctx.Err() != nil {
			return nil, ErrClosed
		}
		c.options.Log.Debug("reconnect", "err", err)
		if !temporary(err) {
			return nil, err
		}
	}
}

// open makes a Network Connection and brings it through CONNECT and CONNACK.
func (c *Client) open(ctx context.Context, again bool) (*link, *packet.Connack, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.options.ConnectTimeout,
		fmt.Errorf("no answer within %v", c.options.ConnectTimeout))
	defer cancel()
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, nil, causeOf(ctx, err)
	}
	abort := context.AfterFunc(ctx, func() { _ = nc.Close() })
	l := newLink(nc, &c.options)
	connack, err := c.handshake(ctx, l, again)
	if !abort() && err == nil {
		err = context.Cause(ctx) // nc is closed
	}
	if err != nil {
		_ = nc.Close()
		return nil, nil, fmt.Errorf("connect: %w", causeOf(ctx, err))
	}
	return l, connack, nil
}

// causeOf prefers the reason for which ctx ended to the error that it caused.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if c.options.DialContext != nil {
		return c.options.DialContext(ctx)
	}
	return DialTransport(ctx, c.options.URL, c.options.TLS)
}

// handshake sends CONNECT and reads up to CONNACK.
func (c *Client) handshake(ctx context.Context, l *link, again bool) (*packet.Connack, error) {
	connect := c.options.connect(c.ClientID(), again)
	if a := c.options.Auth; a != nil {
		data, err := a.Begin(ctx)
		if err != nil {
			return nil, fmt.Errorf("authenticate by %s: %w", a.Method(), err)
		}
		connect.Properties.AuthenticationData = data
		if data != nil {
			connect.Properties.Mark(mqtt.AuthenticationData)
		}
	}
	if err := l.writeNow(connect); err != nil {
		return nil, err
	}
	for range authStepsMax {
		p, err := l.reader.Next()
		if err != nil {
			return nil, noAnswer(err)
		}
		switch p := p.(type) {
		case *packet.Connack:
			return c.checkConnack(ctx, l, connect, p)
		case *packet.Auth:
			out, err := answerAuth(ctx, c.options.Auth, p)
			if err != nil {
				return nil, err
			}
			if err := l.writeNow(out); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the broker's first packet is %s: expected CONNACK", p.Type()) // [MQTT-3.2.0-1]
		}
	}
	return nil, fmt.Errorf("more than %d AUTH packets in one exchange", authStepsMax)
}

// writeNow writes a packet before the link's loops run.
func (l *link) writeNow(p packet.Packet) error {
	buf, err := packet.Append(nil, l.version, p)
	if err != nil {
		return err
	}
	_, err = l.nc.Write(buf)
	return err
}

// checkConnack refuses a broker that says no or contradicts CONNECT.
func (c *Client) checkConnack(ctx context.Context, l *link, connect *packet.Connect, in *packet.Connack) (*packet.Connack, error) {
	if in.Reason != mqtt.Success {
		return nil, newReasonError(packet.CONNACK, in.Reason, in.Properties)
	}
	if in.SessionPresent && connect.CleanStart { // [MQTT-3.2.2-2]
		return nil, errors.New("CONNACK says Session Present after Clean Start: the broker's session is not ours")
	}
	if a := c.options.Auth; a != nil {
		if err := a.End(ctx, authData(in.Properties)); err != nil {
			return nil, fmt.Errorf("authenticate by %s: %w", a.Method(), err)
		}
	}
	l.limits = limitsOf(&c.options, in.Properties)
	connack := *in
	return &connack, nil
}

// attach makes l the client's link and brings the session over to it.
func (c *Client) attach(l *link, connack *packet.Connack) {
	if c.options.OnConnect != nil {
		c.options.OnConnect(connack)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connack = connack
	if connack.Properties.Has(mqtt.AssignedClientIdentifier) {
		c.clientID = connack.Properties.AssignedClientID
	}
	l.quota = l.limits.receiveMaximum
	l.aliasesOut = make(map[string]uint16)
	c.link = l
	if !connack.SessionPresent {
		c.forgetSessionLocked()
		c.renewLocked()
	}
	c.resumeLocked()
	c.changedLocked()
	if c.closing {
		l.part(ErrClosed, &packet.Disconnect{}) // Disconnect came while we connected
	}
}

// detach notes that l is gone.
func (c *Client) detach(l *link, cause error) {
	c.mu.Lock()
	c.link = nil
	c.endReauthLocked(cause)
	closing := c.closing
	c.mu.Unlock()
	if c.options.OnDisconnect != nil && !closing {
		c.options.OnDisconnect(cause)
	}
}

// finish ends the client: everybody who waits learns why.
func (c *Client) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		err = ErrClosed
	}
	c.err = err
	for _, d := range c.deliveries {
		d.finish(mqtt.Success, err)
	}
	for _, r := range c.requests {
		r.finish(err)
	}
	clear(c.deliveries)
	clear(c.requests)
	c.resend, c.granted = nil, nil
	c.changedLocked()
	close(c.done)
}

// waitLocked returns what is closed at the next change of the session.
func (c *Client) waitLocked() <-chan struct{} {
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

func (c *Client) changedLocked() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// newIDLocked returns a Packet Identifier that is not in use [MQTT-2.2.1-3],
// or 0 if all are.
func (c *Client) newIDLocked() mqtt.PacketID {
	for range 1<<16 - 1 {
		if c.lastID++; c.lastID == 0 {
			c.lastID = 1
		}
		if c.deliveries[c.lastID] == nil && c.requests[c.lastID] == nil {
			return c.lastID
		}
	}
	return 0
}

// take does what a packet of the broker asks for. It runs in the reader.
func (c *Client) take(l *link, p packet.Packet) error {
	switch p := p.(type) {
	case *packet.Publish:
		return c.onPublish(l, p)
	case *packet.Puback:
		c.onPuback(l, p)
	case *packet.Pubrec:
		return c.onPubrec(l, p)
	case *packet.Pubrel:
		return c.onPubrel(l, p)
	case *packet.Pubcomp:
		c.onPubcomp(l, p)
	case *packet.Suback:
		c.onAnswer(packet.SUBSCRIBE, p.ID, p.Reasons, p.Properties)
	case *packet.Unsuback:
		c.onAnswer(packet.UNSUBSCRIBE, p.ID, p.Reasons, p.Properties)
	case *packet.Auth:
		return c.onAuth(l, p)
	case *packet.Pingresp:
		c.options.Log.Debug("received PINGRESP")
	case *packet.Disconnect:
		l.end(newReasonError(packet.DISCONNECT, p.Reason, p.Properties), nil)
	default:
		return &packet.Error{Reason: mqtt.ProtocolError, Packet: p.Type(), What: "a packet that only clients send"}
	}
	return nil
}

// inOrder returns the deliveries as they were first sent [MQTT-4.6.0-1].
func (c *Client) inOrderLocked() []*Delivery {
	all := make([]*Delivery, 0, len(c.deliveries))
	for _, d := range c.deliveries {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *Delivery) int { return int(int64(a.seq) - int64(b.seq)) })
	return all
}
