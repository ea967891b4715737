package client

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// A receipt is the acknowledgement that a received message still owes. Its
// fields are guarded by Client.mu.
type receipt struct {
	id    mqtt.PacketID
	qos   mqtt.QoS
	acked bool  // the application has accepted the message
	link  *link // where the PUBLISH came last; acknowledgements go nowhere else
}

// Receive returns the next message. What has arrived before the client ended is
// still handed out; then the error is that of [Client.Err]. Not for clients
// with a Handler.
func (c *Client) Receive(ctx context.Context) (*Message, error) {
	select {
	case m := <-c.inbox:
		return c.handOver(m), nil
	default:
	}
	select {
	case m := <-c.inbox:
		return c.handOver(m), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.done:
	}
	select {
	case m := <-c.inbox:
		return c.handOver(m), nil
	default:
		return nil, c.Err()
	}
}

// TryReceive returns the next message if one has arrived, and otherwise nil.
func (c *Client) TryReceive() *Message {
	select {
	case m := <-c.inbox:
		return c.handOver(m)
	default:
		return nil
	}
}

func (c *Client) handOver(m *Message) *Message {
	if !c.options.ManualAck {
		m.Ack()
	}
	return m
}

// Messages yields what Receive returns, and last the error that ended it.
func (c *Client) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			m, err := c.Receive(ctx)
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// handle calls the handler for each message, until the client has ended.
func (c *Client) handle() {
	for {
		select {
		case m := <-c.inbox:
			c.call(m)
			continue
		case <-c.done:
		}
		select {
		case m := <-c.inbox:
			c.call(m)
		default:
			return
		}
	}
}

func (c *Client) call(m *Message) {
	c.options.Handler(m)
	if !c.options.ManualAck {
		m.Ack()
	}
}

// Ack tells the broker that the application has taken the message over. It is
// needed with Options.ManualAck only, and does nothing at QoS 0 or the second
// time. Acknowledgements leave in the order in which the messages came
// [MQTT-4.6.0-2] [MQTT-4.6.0-3], so one that is late holds back those behind
// it. If the connection is gone the broker sends the message again.
func (m *Message) Ack() {
	if m.receipt == nil {
		return
	}
	c, r := m.client, m.receipt
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.acked {
		return
	}
	r.acked = true
	if r.link == c.link && c.link != nil {
		c.acknowledgeLocked(c.link, r.qos)
	}
}

// acknowledgeLocked sends the acknowledgements that no earlier one holds back.
func (c *Client) acknowledgeLocked(l *link, qos mqtt.QoS) {
	waiting := l.receipts[qos]
	n := 0
	for n < len(waiting) && waiting[n].acked {
		var p packet.Packet = &packet.Pubrec{ID: waiting[n].id} // [MQTT-4.3.3-8]
		if qos == mqtt.QoS1 {
			p = &packet.Puback{ID: waiting[n].id} // [MQTT-4.3.2-4]
			l.unacked--
		}
		if err := l.put(p); err != nil {
			return
		}
		waiting[n] = nil
		n++
	}
	l.receipts[qos] = waiting[n:]
}

// onPublish takes a PUBLISH: the application gets the message, unless it has it
// already. It runs in the reader and waits for room.
func (c *Client) onPublish(l *link, p *packet.Publish) error {
	name, err := l.topicOf(p)
	if err != nil {
		return err
	}
	r, fresh, err := c.expect(l, p)
	if err != nil || !fresh {
		return err
	}
	m := &Message{
		Topic: name, Payload: slices.Clone(p.Payload), Properties: slices.Clone(p.Properties),
		QoS: p.QoS, Retain: p.Retain, Dup: p.Dup, ID: p.ID, TopicAlias: p.TopicAlias,
		HasExpiry: p.HasExpiry, Expiry: p.Expiry, SubscriptionIDs: slices.Clone(p.SubscriptionIDs),
		client: c, receipt: r,
	}
	c.options.Log.Debug("received PUBLISH", "topic", name, "qos", p.QoS, "id", p.ID, "retain", p.Retain, "dup", p.Dup, "bytes", len(m.Payload))
	c.enqueue(l, m)
	return nil
}

// topicOf resolves a Topic Alias. Aliases belong to the Network Connection
// [MQTT-3.3.2-7].
func (l *link) topicOf(p *packet.Publish) (string, error) {
	if p.TopicAlias == 0 {
		return string(p.Topic), nil
	}
	if int(p.TopicAlias) > len(l.aliasesIn) { // [MQTT-3.3.2-10]
		return "", &packet.Error{Reason: mqtt.TopicAliasInvalid, Packet: packet.PUBLISH,
			What: fmt.Sprintf("Topic Alias %d: expected at most %d", p.TopicAlias, len(l.aliasesIn))}
	}
	known := &l.aliasesIn[p.TopicAlias-1]
	if len(p.Topic) > 0 {
		*known = string(p.Topic)
	}
	if *known == "" {
		return "", &packet.Error{Reason: mqtt.ProtocolError, Packet: packet.PUBLISH,
			What: fmt.Sprintf("Topic Alias %d stands for no topic yet", p.TopicAlias)}
	}
	return *known, nil
}

// expect notes the acknowledgement that p asks for, and reports whether the
// message is new to the application [MQTT-4.3.3-10].
func (c *Client) expect(l *link, p *packet.Publish) (r *receipt, fresh bool, err error) {
	if p.QoS == mqtt.QoS0 {
		return nil, true, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.received[p.ID]; p.QoS == mqtt.QoS2 && known != nil {
		return nil, false, c.repeatedLocked(l, known)
	}
	l.unacked++
	if l.version >= mqtt.V5 && l.unacked > int(c.options.ReceiveMaximum) { // [MQTT-3.3.4-9]
		return nil, false, &packet.Error{Reason: mqtt.ReceiveMaximumExceeded, Packet: packet.PUBLISH,
			What: fmt.Sprintf("%d messages without acknowledgement: expected at most %d", l.unacked, c.options.ReceiveMaximum)}
	}
	r = &receipt{id: p.ID, qos: p.QoS, link: l}
	l.receipts[p.QoS] = append(l.receipts[p.QoS], r)
	if p.QoS == mqtt.QoS2 {
		c.received[p.ID] = r
	}
	return r, true, nil
}

// repeatedLocked acknowledges a QoS 2 message that the application has or will
// get, as soon as it has accepted it.
func (c *Client) repeatedLocked(l *link, r *receipt) error {
	if r.link == l {
		if r.acked {
			return l.put(&packet.Pubrec{ID: r.id})
		}
		return nil
	}
	r.link = l
	l.unacked++
	l.receipts[mqtt.QoS2] = append(l.receipts[mqtt.QoS2], r)
	c.acknowledgeLocked(l, mqtt.QoS2)
	return nil
}

func (c *Client) onPubrel(l *link, p *packet.Pubrel) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &packet.Pubcomp{ID: p.ID} // [MQTT-4.3.3-11]
	r := c.received[p.ID]
	if r == nil {
		out.Reason = mqtt.PacketIdentifierNotFound
		return l.put(out)
	}
	delete(c.received, p.ID) // [MQTT-4.3.3-12]
	if r.link == l {
		l.unacked--
	}
	return l.put(out)
}

// enqueue hands m to the application; while there is no room the reader waits,
// and with it the broker.
func (c *Client) enqueue(l *link, m *Message) {
	select {
	case c.inbox <- m:
		return
	default:
	}
	if c.options.DropQoS0 && m.QoS == mqtt.QoS0 {
		c.mu.Lock()
		c.dropped++
		c.mu.Unlock()
		return
	}
	l.paused.Store(true)
	defer l.paused.Store(false)
	select {
	case c.inbox <- m:
	case <-l.gone:
		c.forget(m.receipt)
	}
}

// forget makes the repetition of a QoS 2 message new again: the application has
// not seen it.
func (c *Client) forget(r *receipt) {
	if r == nil || r.qos != mqtt.QoS2 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.received[r.id] == r {
		delete(c.received, r.id)
	}
}
