package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

// Subscription is a Topic Filter with its Subscription Options. Before 5.0 only
// Filter and QoS are sent.
type Subscription = packet.Subscription

// requestsMax is how many SUBSCRIBE and UNSUBSCRIBE packets may be without an
// answer; a caller beyond it gets an error.
const requestsMax = 1024

// A request is a SUBSCRIBE or UNSUBSCRIBE without its answer.
type request struct {
	packet  packet.Packet
	filters []string
	done    chan struct{}
	reasons []mqtt.ReasonCode // valid once done is closed
	err     error             // valid once done is closed
}

func (r *request) finish(err error) {
	r.err = err
	close(r.done)
}

// subscribed is a subscription that the broker has granted.
type subscribed struct {
	subscription Subscription
	properties   *packet.Properties
}

// Subscribe creates the subscriptions with one SUBSCRIBE and returns the
// broker's Reason Codes, one a filter in their order: the granted QoS, or why
// not. The error is the first refusal as a [*ReasonError], and nil if all were
// granted. p may hold a Subscription Identifier and User Properties (5.0); nil:
// none.
func (c *Client) Subscribe(ctx context.Context, subs []Subscription, p *packet.Properties) ([]mqtt.ReasonCode, error) {
	if len(subs) == 0 { // [MQTT-3.8.3-2]
		return nil, errors.New("subscribe: no topic filter: expected at least one")
	}
	filters := make([]string, len(subs))
	for i, s := range subs {
		if _, err := topic.ParseFilter(s.Filter); err != nil {
			return nil, fmt.Errorf("subscribe: %w", err)
		}
		if s.QoS > mqtt.QoS2 {
			return nil, fmt.Errorf("subscribe to %q: QoS %d: expected 0, 1 or 2", s.Filter, s.QoS)
		}
		filters[i] = s.Filter
	}
	if err := c.checkProperties("subscribe", p); err != nil {
		return nil, err
	}
	r, err := c.begin(filters, func(id mqtt.PacketID) packet.Packet {
		return &packet.Subscribe{ID: id, Subscriptions: slices.Clone(subs), Properties: p}
	})
	if err != nil {
		return nil, err
	}
	return r.wait(ctx)
}

// Unsubscribe ends subscriptions with one UNSUBSCRIBE and returns the broker's
// Reason Codes, which 3.1 and 3.1.1 do not have. Errors are as in Subscribe.
func (c *Client) Unsubscribe(ctx context.Context, filters []string, p *packet.Properties) ([]mqtt.ReasonCode, error) {
	if len(filters) == 0 { // [MQTT-3.10.3-2]
		return nil, errors.New("unsubscribe: no topic filter: expected at least one")
	}
	for _, f := range filters {
		if _, err := topic.ParseFilter(f); err != nil {
			return nil, fmt.Errorf("unsubscribe: %w", err)
		}
	}
	if err := c.checkProperties("unsubscribe", p); err != nil {
		return nil, err
	}
	filters = slices.Clone(filters)
	r, err := c.begin(filters, func(id mqtt.PacketID) packet.Packet {
		return &packet.Unsubscribe{ID: id, Filters: filters, Properties: p}
	})
	if err != nil {
		return nil, err
	}
	return r.wait(ctx)
}

func (c *Client) checkProperties(what string, p *packet.Properties) error {
	if p != nil && c.options.Version < mqtt.V5 {
		return fmt.Errorf("%s: properties need MQTT 5.0, not %v", what, c.options.Version)
	}
	return nil
}

func (r *request) wait(ctx context.Context) ([]mqtt.ReasonCode, error) {
	select {
	case <-r.done:
		return r.reasons, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// begin sends the packet that build makes. While there is no connection it
// waits for the next.
func (c *Client) begin(filters []string, build func(mqtt.PacketID) packet.Packet) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if c.closing {
		return nil, ErrClosed
	}
	if len(c.requests) >= requestsMax {
		return nil, fmt.Errorf("%d SUBSCRIBE and UNSUBSCRIBE packets wait for an answer: expected fewer", requestsMax)
	}
	id := c.newIDLocked()
	if id == 0 {
		return nil, errors.New("all Packet Identifiers are in use")
	}
	r := &request{packet: build(id), filters: filters, done: make(chan struct{})}
	if c.link != nil {
		if err := c.link.put(r.packet); err != nil {
			return nil, err
		}
	}
	c.requests[id] = r
	c.options.Log.Debug("sending "+r.packet.Type().String(), "id", id, "filters", filters)
	return r, nil
}

// pendingRequestsLocked are the identifiers of the requests, in their order as
// far as identifiers tell it.
func (c *Client) pendingRequestsLocked() []mqtt.PacketID {
	ids := make([]mqtt.PacketID, 0, len(c.requests))
	for id := range c.requests {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// onAnswer takes a SUBACK or UNSUBACK; asked is what it answers.
func (c *Client) onAnswer(asked packet.Type, id mqtt.PacketID, reasons []mqtt.ReasonCode, p *packet.Properties) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := asked + 1
	c.options.Log.Debug("received "+answer.String(), "id", id, "reasons", reasons)
	r := c.requests[id]
	if r == nil || r.packet.Type() != asked {
		return
	}
	delete(c.requests, id)
	r.reasons = slices.Clone(reasons)
	if s, ok := r.packet.(*packet.Subscribe); ok {
		c.grantLocked(s, reasons)
	} else {
		c.revokeLocked(r.filters, reasons)
	}
	r.finish(firstRefusal(answer, r.filters, reasons, p))
	c.changedLocked()
}

// firstRefusal is the error for the first code that is one.
func firstRefusal(t packet.Type, filters []string, reasons []mqtt.ReasonCode, p *packet.Properties) error {
	if t == packet.SUBACK && len(reasons) != len(filters) { // [MQTT-3.8.4-6]
		return fmt.Errorf("SUBACK has %d Reason Codes for %d filters", len(reasons), len(filters))
	}
	for i, code := range reasons {
		if code.Failed() && i < len(filters) {
			err := newReasonError(t, code, p)
			err.Filter = filters[i]
			return err
		}
	}
	return nil
}

// grantLocked remembers what the broker granted, to ask for it again should the
// broker lose the session.
func (c *Client) grantLocked(s *packet.Subscribe, reasons []mqtt.ReasonCode) {
	if !c.options.Reconnect {
		return
	}
	for i, sub := range s.Subscriptions {
		if i >= len(reasons) || reasons[i].Failed() {
			continue
		}
		c.dropGrantLocked(sub.Filter)
		c.granted = append(c.granted, subscribed{sub, s.Properties})
	}
}

func (c *Client) revokeLocked(filters []string, reasons []mqtt.ReasonCode) {
	for i, f := range filters {
		if i < len(reasons) && reasons[i].Failed() {
			continue
		}
		c.dropGrantLocked(f)
	}
}

func (c *Client) dropGrantLocked(filter string) {
	c.granted = slices.DeleteFunc(c.granted, func(s subscribed) bool { return s.subscription.Filter == filter })
}

// renewLocked subscribes again to what an earlier connection was granted. A
// refusal is logged: nobody waits for it.
func (c *Client) renewLocked() {
	for _, g := range c.granted {
		id := c.newIDLocked()
		if id == 0 {
			c.options.Log.Warn("subscribe again", "filter", g.subscription.Filter, "err", "all Packet Identifiers are in use")
			continue
		}
		c.requests[id] = &request{
			packet:  &packet.Subscribe{ID: id, Subscriptions: []Subscription{g.subscription}, Properties: g.properties},
			filters: []string{g.subscription.Filter},
			done:    make(chan struct{}),
		}
	}
}
