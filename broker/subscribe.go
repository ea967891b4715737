package broker

import (
	"strings"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
)

// subscribe creates subscriptions, acknowledges them, and has the Retained
// Messages sent that match.
func (c *conn) subscribe(p *packet.Subscribe) error {
	var id uint32
	if p.Properties.Has(mqtt.SubscriptionIdentifier) {
		id = p.Properties.SubscriptionID
	}
	ack := &packet.Suback{ID: p.ID, Reasons: make([]mqtt.ReasonCode, 0, len(p.Subscriptions))}
	var scans []scan
	for _, asked := range p.Subscriptions {
		sub, reason, err := session.ParseSubscription(asked, id)
		if err != nil {
			return err
		}
		existed := false
		if len(scans) >= c.broker.limits.Subscriptions {
			reason = mqtt.QuotaExceeded
		} else if sub != nil {
			existed, reason = c.admitSubscription(sub)
		}
		ack.Reasons = append(ack.Reasons, reason) // [MQTT-3.8.4-6]
		if reason.Failed() {
			c.broker.refusedFor[reason].Add(1)
			continue
		}
		if sub.WantsRetained(existed) {
			scans = append(scans, c.broker.retained.scan(sub)) // before anything is published that comes live
		}
	}
	if c.version == mqtt.V31 && anyFailed(ack.Reasons) { // its SUBACK can't say no
		return violation(mqtt.TopicFilterInvalid, "a topic filter is not accepted")
	}
	if err := c.reply(ack); err != nil {
		return err
	}
	c.follow(scans)
	c.wakeShares(p)
	return nil
}

// admitSubscription makes the subscription, if it is allowed and within the
// limits, and returns the Reason Code for the SUBACK.
func (c *conn) admitSubscription(sub *session.Subscription) (existed bool, r mqtt.ReasonCode) {
	b := c.broker
	if most := b.limits.TopicLevels; most > 0 && strings.Count(sub.Filter.Pattern, "/") >= most {
		return false, mqtt.TopicFilterInvalid
	}
	if b.admission != nil {
		if v := b.admission.Subscribe(c.principal, sub); !v.Allowed() {
			return false, v.Code
		}
	}
	old, reason := c.session.state.Subscribe(sub, b.limits.Subscriptions)
	if !reason.Failed() {
		b.router.subscribe(c.session, sub)
		if old == nil {
			b.Subscriptions.Add(1)
		}
	}
	return old != nil, reason
}

func anyFailed(rs []mqtt.ReasonCode) bool {
	for _, r := range rs {
		if r.Failed() {
			return true
		}
	}
	return false
}

// follow puts the replies so far into the outbox, SUBACK last, and lets the
// Retained Messages follow.
func (c *conn) follow(scans []scan) {
	s, w := c.session, c.work
	s.mu.Lock()
	defer s.mu.Unlock()
	c.repliesLocked(w)
	if len(scans) > 0 {
		s.scans = append(s.scans, scans...)
		s.pumpLocked(w.now)
	}
}

// wakeShares lets the Client take over what waits at absent members of Shared
// Subscriptions that it has joined.
func (c *conn) wakeShares(p *packet.Subscribe) {
	for _, asked := range p.Subscriptions {
		if strings.HasPrefix(asked.Filter, "$share/") {
			c.broker.wakeShare(asked.Filter)
		}
	}
}

// unsubscribe ends subscriptions. After the UNSUBACK nothing new comes by them
// [MQTT-3.10.4-2]; what is under way or waits is still delivered
// [MQTT-3.10.4-3].
func (c *conn) unsubscribe(p *packet.Unsubscribe) error {
	ack := &packet.Unsuback{ID: p.ID, Reasons: make([]mqtt.ReasonCode, 0, len(p.Filters))}
	for _, filter := range p.Filters {
		sub := c.session.state.Unsubscribe(filter)
		if sub == nil {
			ack.Reasons = append(ack.Reasons, mqtt.NoSubscriptionExisted)
			continue
		}
		c.broker.router.unsubscribe(c.session, sub)
		c.broker.Subscriptions.Add(-1)
		ack.Reasons = append(ack.Reasons, mqtt.Success)
	}
	return c.reply(ack)
}

// scan is the sending of Retained Messages to a new subscription. It holds
// references, so a hundred thousand of them need neither copies nor an outbox.
type scan struct {
	sub   *session.Subscription
	via   *session.Via
	upTo  uint64 // messages that were retained later have come live
	begun bool
	items []*kept // still to be sent
}

// scanLocked sends Retained Messages as long as there is room. One that has been
// replaced meanwhile is left out: the subscription has got what took its place.
func (s *subscriber) scanLocked(c *conn, now time.Time) {
	for len(s.scans) > 0 {
		if !s.scanOneLocked(c, &s.scans[0], now) {
			return
		}
		s.scans = s.scans[1:]
	}
	s.scans = nil
}

// scanOneLocked reports whether the scan is through.
func (s *subscriber) scanOneLocked(c *conn, sc *scan, now time.Time) bool {
	if !sc.begun {
		// Only now, one subscription after the other: a client that subscribes to
		// everything in a hundred ways holds one list at a time.
		sc.items, sc.begun = s.broker.retained.match(sc.sub.Filter.Pattern, sc.upTo), true
	}
	for len(sc.items) > 0 {
		k := sc.items[0]
		q := min(k.message.QoS, sc.sub.QoS)
		if c.len() >= highWater || q > mqtt.QoS0 && !s.state.Ready() {
			return false
		}
		sc.items[0], sc.items = nil, sc.items[1:]
		if k.gone.Load() || k.message.Expired(now) {
			continue
		}
		out := session.Outgoing{Type: packet.PUBLISH}
		out.Delivery = session.Delivery{Message: k.message, Via: sc.via, QoS: q, Retain: true} // [MQTT-3.3.1-8]
		if q > mqtt.QoS0 {
			out.ID = s.state.Send(out.Delivery)
		}
		s.sendLocked(c, out, now)
	}
	return true
}
