package broker

import (
	"errors"
	"fairlead/auth"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
	"fairlead/trace"
)

// conn is one Network Connection. One goroutine, that of [Broker.Serve], reads
// it and owns its fields; what others may touch stands under the session's mu.
type conn struct {
	broker    *Broker
	nc        listen.Conn
	session   *subscriber            // nil until the CONNECT is accepted
	access    atomic.Pointer[access] // who the Client is; nil until it is known
	greeting  *greeting              // what is known between CONNECT and CONNACK; nil afterwards
	renewal   auth.Exchange          // a re-authentication under way; nil: none
	method    string                 // Authentication Method of the CONNECT
	work      *work                  // scratch of the running batch; nil between batches
	routes    map[string]*route
	last      *route // of the latest PUBLISH
	reader    packet.Reader
	since     time.Time   // when the CONNECT was accepted
	pace      *pace       // nil: the Client has not been slowed
	published *published  // nil: nothing has been published; guarded by session.mu
	expiry    *time.Timer // ends the connection with its identity; guarded by session.mu; nil: nothing does

	keepAlive time.Duration // how long the Client may be silent; 0: for ever
	linger    time.Duration // how long the goroutine waits before it is parked
	lastRead  time.Time
	parking   // see park.go
	version   mqtt.Version
	problem   bool // Reason Strings are welcome

	discard atomic.Bool // the Session ends with this connection, whatever its expiry
	kicked  atomic.Pointer[session.Error]
	done    chan struct{} // closed when the Session is free for another connection

	outbox // guarded by session.mu
}

// errDisconnected ends a connection whose Client has sent DISCONNECT.
var errDisconnected = errors.New("the client disconnected")

// closeTimeout is how long a peer that does not read may delay the end of its
// connection, for the sake of a last DISCONNECT.
const closeTimeout = 500 * time.Millisecond

// connectBytesMax is the largest packet before the CONNACK. The longest fields of
// a CONNECT fit, and nobody who has not shown who they are makes us hold more.
const connectBytesMax = 512 << 10

// Serve serves one Network Connection until its Client leaves, violates the
// protocol or is sent away, and then closes it. It may return while the Client is
// silent and the connection needs no goroutine; [Broker.Shutdown] waits for the
// true end.
func (b *Broker) Serve(nc listen.Conn) {
	c := &conn{broker: b, nc: nc, done: make(chan struct{})}
	c.reader.MaxBytes = min(int(b.limits.PacketBytes), connectBytesMax)
	if !b.enter(c) {
		nc.Close()
		return
	}
	b.Accepted.Add(1)
	nc.SetReadDeadline(time.Now().Add(b.limits.ConnectTimeout))
	c.run()
}

// run reads until the connection ends or is parked.
func (c *conn) run() {
	err := c.read()
	if err == errParked {
		return // c belongs to the poller now
	}
	c.finish(err)
	c.broker.leave(c)
}

// read reads packets and does what they ask for, until that is over. It returns
// why.
func (c *conn) read() error {
	for {
		n, err := c.reader.Fill(c.nc)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = c.overdue(time.Now())
		} else if n > 0 {
			c.lastRead = time.Now()
			if e := c.batch(n); e != nil {
				err = e
			}
		}
		if err != nil {
			return err
		}
	}
}

// batch does what the packets that one read has completed ask for. All that is
// to be sent in consequence is written once at its end.
func (c *conn) batch(n int) error {
	c.work = newWork(c.lastRead)
	c.work.bytes = n
	if read := c.broker.trace.Read; read != nil {
		read(trace.Read{Client: c.id(), Bytes: n})
	}
	err := c.packets()
	if c.work.ticket != nil {
		err = errors.Join(err, c.commitTicket())
	}
	published, bytes := c.work.published, c.work.received
	c.flushBatch()
	if err == nil {
		c.slow(published, bytes)
		err = c.waitForReader()
	}
	return err
}

func (c *conn) packets() error {
	for {
		p, err := c.reader.Next()
		if errors.Is(err, packet.ErrMore) {
			c.reader.Release()
			return nil
		}
		if err != nil {
			return err
		}
		c.work.packets++
		if err := c.handle(p); err != nil {
			return err
		}
		if c.kicked.Load() != nil {
			return c.kicked.Load()
		}
	}
}

// handle leads each packet to the method that does what it asks for.
func (c *conn) handle(p packet.Packet) error {
	if c.session == nil {
		return c.greet(p)
	}
	switch p := p.(type) {
	case *packet.Publish:
		return c.publish(p)
	case *packet.Puback:
		return c.puback(p)
	case *packet.Pubrec:
		return c.pubrec(p)
	case *packet.Pubrel:
		return c.pubrel(p)
	case *packet.Pubcomp:
		return c.pubcomp(p)
	case *packet.Subscribe:
		return c.subscribe(p)
	case *packet.Unsubscribe:
		return c.unsubscribe(p)
	case *packet.Pingreq:
		return c.reply(&packet.Pingresp{}) // [MQTT-3.12.4-1]
	case *packet.Disconnect:
		return c.disconnect(p)
	case *packet.Auth:
		return c.reauthenticate(p)
	}
	// A second CONNECT [MQTT-3.1.0-2], or what only a Server sends.
	return violation(mqtt.ProtocolError, "%s from a connected client", p.Type())
}

// reply puts a packet for the Client behind the replies of this batch.
func (c *conn) reply(p packet.Packet) error {
	out, err := c.append(c.work.replies, p)
	c.work.replies = out
	return err
}

// ack is reply for PUBACK, PUBREC, PUBREL and PUBCOMP; why is for a failed
// reason, and stays away if the Client does not want to know.
func (c *conn) ack(t packet.Type, id mqtt.PacketID, r mqtt.ReasonCode, why string) error {
	if why == "" || !r.Failed() || !c.problem || c.version < mqtt.V5 {
		c.work.replies = packet.AppendAck(c.work.replies, c.version, t, id, r)
		return nil
	}
	switch p := reasonString(why); t {
	case packet.PUBACK:
		return c.reply(&packet.Puback{ID: id, Reason: r, Properties: p})
	default:
		return c.reply(&packet.Pubrec{ID: id, Reason: r, Properties: p})
	}
}

func reasonString(why string) *packet.Properties {
	p := &packet.Properties{ReasonString: why}
	p.Mark(mqtt.ReasonString)
	return p
}

// append encodes a packet for this Client. What would be above its Maximum
// Packet Size goes without its Reason String [MQTT-3.2.2-19] [MQTT-3.9.2-2].
func (c *conn) append(dst []byte, p packet.Packet) ([]byte, error) {
	n := len(dst)
	dst, err := packet.Append(dst, c.version, p)
	if err != nil || c.session == nil {
		return dst, err
	}
	if most := c.session.state.PacketMax(); most == 0 || len(dst)-n <= int(most) {
		return dst, nil
	}
	dst = dst[:n]
	switch p := p.(type) {
	case *packet.Puback:
		return packet.AppendAck(dst, c.version, packet.PUBACK, p.ID, p.Reason), nil
	case *packet.Pubrec:
		return packet.AppendAck(dst, c.version, packet.PUBREC, p.ID, p.Reason), nil
	case *packet.Disconnect:
		return packet.Append(dst, c.version, &packet.Disconnect{Reason: p.Reason})
	}
	return dst, fmt.Errorf("%s is above the client's Maximum Packet Size of %d bytes", p.Type(), c.session.state.PacketMax())
}

// overdue decides what a read deadline means: the time to CONNECT is over, the
// Keep Alive is, or the Client has written since the deadline was set. The
// deadline is moved only here, not at each read.
func (c *conn) overdue(now time.Time) error {
	if k := c.kicked.Load(); k != nil {
		return k
	}
	if c.session == nil {
		return fmt.Errorf("no CONNECT within %v", c.broker.limits.ConnectTimeout)
	}
	until := c.deadline()
	if c.keepAlive > 0 && !now.Before(until) { // [MQTT-3.1.2-22]
		return violation(mqtt.KeepAliveTimeout, "nothing read for %v: expected a packet within 1.5 times the Keep Alive", c.keepAlive)
	}
	if now.Sub(c.lastRead) < c.linger*7/8 { // it has talked since the deadline was set
		c.linger = lingerBusy
		return c.nc.SetReadDeadline(c.lingerUntil(now))
	}
	if c.park() {
		return errParked
	}
	return c.nc.SetReadDeadline(until)
}

// kick sends the Client away with reason r. It does not wait: the connection's
// own goroutine does the rest. The first reason counts.
func (c *conn) kick(r mqtt.ReasonCode, why string) {
	if !c.kicked.CompareAndSwap(nil, &session.Error{Reason: r, What: why}) {
		return
	}
	past := time.Unix(1, 0)
	c.nc.SetReadDeadline(past)
	c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.wake()
}

// finish ends the connection for the reason err: it tells the Client, closes
// the socket, and leaves or ends the Session.
func (c *conn) finish(err error) {
	if k := c.kicked.Load(); k != nil {
		err = k
	}
	_, told := reasonOf(err)
	if told {
		c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
		c.farewell(err)
	}
	var plan session.Plan
	if c.session != nil {
		// Before the Client can see the end: what is published from then on waits.
		plan = c.session.detach()
	}
	if !told {
		c.nc.Close() // nobody listens, so a writer that waits need not
	}
	if c.session != nil {
		c.expireAt(time.Time{})
		c.stopWriting()
	}
	c.nc.Close()
	c.broker.ended(c, err)
	if c.session != nil {
		c.session.leave(c, err, plan)
	}
	c.reader.Release()
	close(c.done)
	if c.session != nil {
		c.session.last.CompareAndSwap(c, nil)
	}
}

// farewell tells the Client why the Server ends the connection, where its
// version has a word for that [MQTT-4.13.1-1] [MQTT-4.13.2-1].
func (c *conn) farewell(err error) {
	r, ok := reasonOf(err)
	if !ok {
		return
	}
	if c.session == nil {
		c.refuse(err, r)
		return
	}
	if c.version < mqtt.V5 {
		return
	}
	d := &packet.Disconnect{Reason: r}
	if c.problem {
		d.Properties = reasonString(clientText(err))
	}
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := c.append(c.bytes(), d)
	if err == nil {
		c.setBytes(b)
		c.flushLocked()
	}
}

// reasonOf returns the Reason Code of an error that is a violation, or the
// broker's own decision; false if the peer or the network ended the connection.
func reasonOf(err error) (mqtt.ReasonCode, bool) {
	if err == nil || err == errDisconnected || err == io.EOF {
		return 0, false // as most connections end
	}
	var malformed *packet.Error
	if errors.As(err, &malformed) {
		return malformed.Reason, true
	}
	var wrong *session.Error
	if errors.As(err, &wrong) {
		return wrong.Reason, true
	}
	return 0, false
}

// clientText is what a Client may read about err: what it did, and nothing
// about the broker.
func clientText(err error) string {
	var malformed *packet.Error
	if errors.As(err, &malformed) {
		return malformed.Error()
	}
	var wrong *session.Error
	if errors.As(err, &wrong) {
		return wrong.What
	}
	return ""
}

func violation(r mqtt.ReasonCode, format string, args ...any) *session.Error {
	return &session.Error{Reason: r, What: fmt.Sprintf(format, args...)}
}

// disconnect ends the connection as the Client asks [MQTT-3.14.4-1].
func (c *conn) disconnect(p *packet.Disconnect) error {
	if p.Properties.Has(mqtt.SessionExpiryInterval) {
		c.session.mu.Lock()
		most := c.broker.limits.ExpiryMax
		if l := c.access.Load().limits().SessionExpiry; l > 0 {
			most = min(most, seconds(l))
		}
		err := c.session.state.SetExpiry(p.Properties.SessionExpiry, most)
		c.session.mu.Unlock()
		if err != nil {
			return err
		}
	}
	c.session.ending = session.Ending{Said: true, Reason: p.Reason}
	return errDisconnected
}

// id is the Client Identifier; empty before the CONNECT is accepted.
func (c *conn) id() mqtt.ClientID {
	if c.session == nil {
		return ""
	}
	return c.session.state.ID
}

// ended counts the end of a connection and writes the one line about it.
func (b *Broker) ended(c *conn, err error) {
	b.Closed.Add(1)
	r, told := reasonOf(err)
	if told {
		b.endedFor[r].Add(1)
	}
	if told && r != mqtt.ServerShuttingDown && r != mqtt.SessionTakenOver {
		b.logger.Info("connection ended", "client", c.id(), "remote", c.nc.RemoteAddr(), "err", err)
		return
	}
	if err != nil && !errors.Is(err, errDisconnected) && !errors.Is(err, io.EOF) {
		b.logger.Debug("connection ended", "client", c.id(), "remote", c.nc.RemoteAddr(), "err", err)
		return
	}
	b.logger.Debug("connection ended", "client", c.id(), "remote", c.nc.RemoteAddr())
}
