package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

// A Message is an Application Message to publish, or one received.
type Message struct {
	Topic   string
	Payload []byte
	QoS     mqtt.QoS
	Retain  bool
	// HasExpiry says that Expiry, the Message Expiry Interval in seconds,
	// counts (5.0).
	HasExpiry bool
	Expiry    uint32
	// Properties are the further properties (5.0): Content Type, User
	// Properties and so on.
	Properties mqtt.Properties

	// TopicAlias is the alias to use for the Topic, which stays away once the
	// broker knows it (5.0); 0: see [Options.TopicAliases]. On a received message
	// it is what the broker used; Topic is resolved already.
	TopicAlias uint16

	// The rest is set on received messages only.

	// Dup is the DUP flag: the broker may have sent the message before.
	Dup bool
	// ID is the Packet Identifier; 0 for QoS 0.
	ID mqtt.PacketID
	// SubscriptionIDs are the Subscription Identifiers that matched (5.0).
	SubscriptionIDs []uint32

	client  *Client
	receipt *receipt // nil for QoS 0
}

// A Delivery is a published message on its way. Wait for it, or for Done and
// then ask Err.
type Delivery struct {
	done chan struct{}
	code mqtt.ReasonCode // valid once done is closed
	err  error           // valid once done is closed

	// The rest is guarded by Client.mu.
	message  Message
	id       mqtt.PacketID
	seq      uint64 // order of first sending
	released bool   // PUBREC came, PUBREL was sent [MQTT-4.3.3-6]
	sent     bool   // on this connection or an earlier one
}

// Done is closed when the message's QoS is complete or it ended in an error.
func (d *Delivery) Done() <-chan struct{} { return d.done }

// Err is nil if the broker has taken the message over, a [*ReasonError] if it
// refused it. Valid once Done is closed.
func (d *Delivery) Err() error { return d.err }

// Reason is the broker's Reason Code, for example No matching subscribers;
// Success for QoS 0. Valid once Done is closed.
func (d *Delivery) Reason() mqtt.ReasonCode { return d.code }

// Wait waits for Done and returns Err, or the cause of ctx's end. The message
// stays on its way in that case.
func (d *Delivery) Wait(ctx context.Context) error {
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *Delivery) finish(code mqtt.ReasonCode, err error) {
	d.code, d.err = code, err
	close(d.done)
}

// Publish sends m and returns when its QoS is complete: at QoS 0 when it is
// queued for the socket, at QoS 1 with PUBACK, at QoS 2 with PUBCOMP. The error
// is a [*ReasonError] if the broker refused the message and a [*LimitError] if
// it was not even sent. When ctx ends first the message may still arrive.
func (c *Client) Publish(ctx context.Context, m Message) error {
	d, err := c.PublishAsync(ctx, m)
	if err != nil {
		return err
	}
	return d.Wait(ctx)
}

// PublishAsync sends m and returns as soon as it is on its way. It waits while
// there is no connection, while too many messages are in flight, and while the
// socket is behind; ctx bounds that. Messages of one goroutine are sent in the
// order of the calls. The payload must not change until the Delivery is done.
func (c *Client) PublishAsync(ctx context.Context, m Message) (*Delivery, error) {
	if err := c.checkMessage(&m); err != nil {
		return nil, err
	}
	d := &Delivery{done: make(chan struct{}), message: m}
	for {
		wait, err := c.trySend(d)
		if wait == nil {
			return d, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *Client) checkMessage(m *Message) error {
	if err := topic.CheckName(m.Topic); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if m.QoS > mqtt.QoS2 {
		return fmt.Errorf("publish: QoS %d: expected 0, 1 or 2", m.QoS)
	}
	if c.options.Version < mqtt.V5 && (m.HasExpiry || m.TopicAlias != 0 || len(m.Properties) > 0) {
		return fmt.Errorf("publish: properties need MQTT 5.0, not %v", c.options.Version)
	}
	return nil
}

// trySend sends d, or returns what to wait for before the next try.
func (c *Client) trySend(d *Delivery) (wait <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if c.closing {
		return nil, ErrClosed
	}
	if c.link == nil || len(c.resend) > 0 {
		return c.waitLocked(), nil
	}
	if err := c.link.limits.allow(&d.message); err != nil {
		return nil, err
	}
	if d.message.QoS == mqtt.QoS0 {
		return c.sendQoS0Locked(d)
	}
	return c.sendFirstLocked(d)
}

// allow holds m against what the broker announced.
func (lim *limits) allow(m *Message) error {
	if m.QoS > lim.maximumQoS { // [MQTT-3.2.2-11]
		return &LimitError{mqtt.QoSNotSupported, fmt.Sprintf("QoS %d: the broker's Maximum QoS is %d", m.QoS, lim.maximumQoS)}
	}
	if m.Retain && !lim.retain { // [MQTT-3.2.2-14]
		return &LimitError{mqtt.RetainNotSupported, "RETAIN: the broker keeps no Retained Messages"}
	}
	if m.TopicAlias > lim.topicAliasesMax { // [MQTT-3.2.2-17]
		return &LimitError{mqtt.TopicAliasInvalid, fmt.Sprintf("Topic Alias %d: the broker's Topic Alias Maximum is %d", m.TopicAlias, lim.topicAliasesMax)}
	}
	return nil
}

func (c *Client) sendQoS0Locked(d *Delivery) (<-chan struct{}, error) {
	wait, err := c.transmitLocked(d, false)
	if err != nil {
		return wait, noWait(wait, err)
	}
	d.finish(mqtt.Success, nil)
	return nil, nil
}

func (c *Client) sendFirstLocked(d *Delivery) (<-chan struct{}, error) {
	if len(c.deliveries) >= c.options.InflightMax || c.link.quota == 0 {
		return c.waitLocked(), nil
	}
	if d.id = c.newIDLocked(); d.id == 0 {
		return c.waitLocked(), nil
	}
	if wait, err := c.transmitLocked(d, false); err != nil {
		return wait, noWait(wait, err)
	}
	c.sent++
	d.seq, d.sent = c.sent, true
	c.deliveries[d.id] = d
	c.link.quota-- // [MQTT-4.9.0-2]
	return nil, nil
}

// noWait keeps an error that waiting does not heal.
func noWait(wait <-chan struct{}, err error) error {
	if wait != nil {
		return nil
	}
	return err
}

// transmitLocked puts d's PUBLISH into the outbox.
func (c *Client) transmitLocked(d *Delivery, dup bool) (<-chan struct{}, error) {
	l, m := c.link, &d.message
	p := packet.Publish{
		Dup: dup, QoS: m.QoS, Retain: m.Retain, ID: d.id, HasExpiry: m.HasExpiry, Expiry: m.Expiry,
		Topic: []byte(m.Topic), Properties: m.Properties, Payload: m.Payload,
	}
	fresh := c.aliasLocked(l, m, &p)
	wait, err := l.putRoom(&p)
	if err != nil && fresh {
		delete(l.aliasesOut, m.Topic) // the broker never learned it
	}
	if err == nil {
		c.options.Log.Debug("sending PUBLISH", "topic", m.Topic, "qos", m.QoS, "id", d.id, "dup", dup, "bytes", len(m.Payload))
	}
	return wait, err
}

// aliasLocked puts a Topic Alias into p, and leaves the topic out if the broker
// knows the alias. It reports whether the alias is new. The first topics get
// the aliases: a publisher with more topics than aliases gains nothing from
// changing them about.
func (c *Client) aliasLocked(l *link, m *Message, p *packet.Publish) (fresh bool) {
	alias, known := l.aliasesOut[m.Topic]
	switch {
	case m.TopicAlias != 0 && m.TopicAlias != alias: // another meaning for it, or a first one
		maps.DeleteFunc(l.aliasesOut, func(_ string, a uint16) bool { return a == m.TopicAlias })
		alias, l.aliasesNamed = m.TopicAlias, true
	case known:
		p.TopicAlias, p.Topic = alias, nil
		return false
	case !c.options.TopicAliases || len(l.aliasesOut) >= int(l.limits.topicAliasesMax): // [MQTT-3.2.2-17]
		return false
	default:
		if alias = l.freeAlias(); alias == 0 {
			return false
		}
	}
	p.TopicAlias = alias
	l.aliasesOut[m.Topic] = alias
	return true
}

// freeAlias returns an alias that stands for nothing yet; 0: there is none.
func (l *link) freeAlias() uint16 {
	if !l.aliasesNamed { // they are taken in turn
		return uint16(len(l.aliasesOut) + 1)
	}
	taken := make(map[uint16]bool)
	for _, a := range l.aliasesOut {
		taken[a] = true
	}
	for a := uint16(1); a <= l.limits.topicAliasesMax && a != 0; a++ {
		if !taken[a] {
			return a
		}
	}
	return 0
}

// forgetSessionLocked goes on after the broker has lost the session: QoS 1
// messages are new ones, what became of QoS 2 messages is unknown, and inbound
// Packet Identifiers mean nothing any more.
func (c *Client) forgetSessionLocked() {
	clear(c.received)
	for id, d := range c.deliveries {
		if d.message.QoS == mqtt.QoS2 {
			delete(c.deliveries, id)
			d.finish(mqtt.Success, ErrSessionLost)
			continue
		}
		d.sent = false
	}
}

// resumeLocked sends again what the broker has not acknowledged
// [MQTT-4.4.0-1], in its order and as far as the quota allows.
func (c *Client) resumeLocked() {
	c.resend = c.inOrderLocked()
	for _, id := range c.pendingRequestsLocked() {
		_ = c.link.put(c.requests[id].packet)
	}
	c.resendLocked()
}

// resendLocked sends the next of c.resend until the quota or the outbox is used
// up; each acknowledgement calls it again.
func (c *Client) resendLocked() {
	for len(c.resend) > 0 {
		d := c.resend[0]
		if d.released {
			_ = c.link.put(&packet.Pubrel{ID: d.id})
			c.resend = c.resend[1:]
			continue
		}
		if c.link.quota == 0 {
			return
		}
		if err := c.retransmitLocked(d); err != nil {
			delete(c.deliveries, d.id)
			d.finish(mqtt.Success, err)
		}
		c.resend = c.resend[1:]
	}
	c.resend = nil
}

// retransmitLocked sends d without asking for room: what is sent again is
// bounded by InflightMax already.
func (c *Client) retransmitLocked(d *Delivery) error {
	m := &d.message
	err := c.link.put(&packet.Publish{
		Dup: d.sent, QoS: m.QoS, Retain: m.Retain, ID: d.id, HasExpiry: m.HasExpiry, Expiry: m.Expiry,
		Topic: []byte(m.Topic), Properties: m.Properties, Payload: m.Payload,
	})
	var limit *LimitError
	if errors.As(err, &limit) {
		return err
	}
	c.link.quota--
	d.sent = true
	return nil
}

// completeLocked ends d and lets the next message go.
func (c *Client) completeLocked(l *link, d *Delivery, code mqtt.ReasonCode, err error) {
	delete(c.deliveries, d.id)
	d.message.Payload = nil // a Delivery may be kept for its outcome
	d.finish(code, err)
	if l.quota < l.limits.receiveMaximum && l.quota < math.MaxUint16 {
		l.quota++
	}
	if c.link == l {
		c.resendLocked()
	}
	c.changedLocked()
}

func (c *Client) onPuback(l *link, p *packet.Puback) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.options.Log.Debug("received PUBACK", "id", p.ID, "reason", p.Reason)
	d := c.deliveries[p.ID]
	if d == nil || d.message.QoS != mqtt.QoS1 {
		return // of an earlier session, or nothing we sent: no harm in it
	}
	c.completeLocked(l, d, p.Reason, reasonError(packet.PUBACK, p.Reason, p.Properties))
}

func (c *Client) onPubrec(l *link, p *packet.Pubrec) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.options.Log.Debug("received PUBREC", "id", p.ID, "reason", p.Reason)
	d := c.deliveries[p.ID]
	if d == nil || d.message.QoS != mqtt.QoS2 {
		if p.Reason.Failed() {
			return nil
		}
		return l.put(&packet.Pubrel{ID: p.ID, Reason: mqtt.PacketIdentifierNotFound})
	}
	if err := reasonError(packet.PUBREC, p.Reason, p.Properties); err != nil { // [MQTT-4.4.0-2]
		c.completeLocked(l, d, p.Reason, err)
		return nil
	}
	d.released = true
	d.code = p.Reason
	d.message.Payload = nil                // never sent again [MQTT-4.3.3-6]
	return l.put(&packet.Pubrel{ID: p.ID}) // [MQTT-4.3.3-4]
}

func (c *Client) onPubcomp(l *link, p *packet.Pubcomp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.options.Log.Debug("received PUBCOMP", "id", p.ID, "reason", p.Reason)
	d := c.deliveries[p.ID]
	if d == nil || !d.released {
		return
	}
	code := p.Reason
	if code == mqtt.Success {
		code = d.code // PUBREC's may say more: No matching subscribers
	}
	c.completeLocked(l, d, code, reasonError(packet.PUBCOMP, p.Reason, p.Properties))
}
