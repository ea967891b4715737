package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// link is one connection, without a goroutine of its own: the bench's clients
// write many packets at once and read many at once.
type link struct {
	net.Conn
	reader packet.Reader
	out    []byte
	// What CONNACK said.
	sessionPresent bool
	receiveMaximum int
}

// dial connects the client with the number n. durable: its session, taken up if
// there is one, outlives the connection.
func (l *load) dial(ctx context.Context, n int, durable bool) (*link, error) {
	timeout := l.options.ConnectTimeout
	if timeout <= 0 {
		timeout = client.ConnectTimeoutDefault
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	nc, err := client.DialTransport(ctx, l.options.URL, l.options.TLS)
	if err != nil {
		return nil, err
	}
	c := &link{Conn: nc}
	c.reader.Version = l.options.Version
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	if err := c.connect(l.connect(n, durable)); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nc.SetDeadline(time.Time{})
}

func (l *load) connect(n int, durable bool) *packet.Connect {
	c := &packet.Connect{
		Version: l.options.Version, CleanStart: !durable, ClientID: fmt.Sprintf("b%08x-%d", l.runID, n),
		HasUser: l.options.User != "", User: l.options.User,
		HasPassword: l.options.Password != nil, Password: l.options.Password,
	}
	if who, ok := l.loginOf(n); ok {
		c.ClientID = who.user + ":" + c.ClientID
		c.HasUser, c.User, c.HasPassword, c.Password = true, who.user, true, []byte(who.password)
	}
	if durable {
		c.Properties = l.connectProperties()
	}
	return c
}

func (c *link) connect(p *packet.Connect) error {
	answer, err := c.ask(p, packet.CONNACK)
	if err != nil {
		return err
	}
	connack := answer.(*packet.Connack)
	if connack.Reason.Failed() {
		return &client.ReasonError{Packet: packet.CONNACK, Code: connack.Reason}
	}
	c.sessionPresent, c.receiveMaximum = connack.SessionPresent, windowMax
	if connack.Properties.Has(mqtt.ReceiveMaximum) {
		c.receiveMaximum = int(connack.Properties.ReceiveMaximum)
	}
	return nil
}

func (c *link) subscribe(filter string, qos mqtt.QoS) error {
	answer, err := c.ask(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: filter, QoS: qos}}}, packet.SUBACK)
	if err != nil {
		return err
	}
	for _, r := range answer.(*packet.Suback).Reasons {
		if r.Failed() {
			return &client.ReasonError{Packet: packet.SUBACK, Code: r}
		}
	}
	return nil
}

// ask sends a packet and reads until the answer comes.
func (c *link) ask(p packet.Packet, want packet.Type) (packet.Packet, error) {
	b, err := packet.Append(nil, c.reader.Version, p)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	for {
		answer, err := c.reader.Next()
		switch {
		case errors.Is(err, packet.ErrMore):
			if _, err := c.reader.Fill(c.Conn); err != nil {
				return nil, fmt.Errorf("wait for the answer to %s: %w", p.Type(), err)
			}
		case err != nil:
			return nil, err
		case answer.Type() == want:
			return answer, nil
		case answer.Type() != packet.PUBLISH: // messages may come before SUBACK
			return nil, fmt.Errorf("%s came in answer to %s, expected %s", answer.Type(), p.Type(), want)
		}
	}
}

// leave disconnects. The connection is over when it returns.
func (c *link) leave() error {
	b, err := packet.Append(nil, c.reader.Version, &packet.Disconnect{})
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	c.part()
	return err
}

// part waits until the broker has closed the connection, and gives its port back
// at once: thousands a second would use up all ports otherwise.
func (c *link) part() {
	c.SetReadDeadline(time.Now().Add(time.Second))
	c.Read(make([]byte, 1))
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// forget removes the sessions that -c has made. It takes its time even if ctx has
// ended: who stops a bench does not want to leave them behind.
func (l *load) forget(ctx context.Context) {
	if !l.durable() {
		return
	}
	ctx = context.WithoutCancel(ctx)
	err := each(int(l.sessions.Load()), func(i int) error {
		c, err := l.dial(ctx, i, false)
		if err != nil {
			return err
		}
		return c.leave()
	})
	if err != nil {
		fmt.Fprintf(l.env.Stderr, "sessions of the clients b%08x-… may be left on the broker: %v\n", l.runID, err)
	}
}

// each runs f for 0 to n-1, a hundred at a time, and returns the first error.
func each(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	var first atomic.Pointer[error]
	slots := make(chan struct{}, 100)
	for i := 0; i < n && first.Load() == nil; i++ {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(i); err != nil {
				first.CompareAndSwap(nil, &err)
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}
