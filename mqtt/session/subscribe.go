package session

import (
	"iter"
	"strings"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

// Subscription is one Topic Filter of a Session with its options.
type Subscription struct {
	Filter            topic.Filter
	QoS               mqtt.QoS // Maximum QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
	ID                uint32 // Subscription Identifier; 0: none
}

// WantsRetained reports whether the Retained Messages that match are sent now;
// existed says whether the Session had the same Topic Filter before
// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]. A Shared Subscription receives
// none.
func (s *Subscription) WantsRetained(existed bool) bool {
	if s.Filter.Shared() {
		return false
	}
	return s.RetainHandling == 0 || s.RetainHandling == 1 && !existed
}

// ParseSubscription turns one entry of a SUBSCRIBE into a Subscription with the
// Subscription Identifier id. A Topic Filter that is none gives the Reason Code
// for the SUBACK; the error, an [*Error], is for what ends the connection.
func ParseSubscription(p packet.Subscription, id uint32) (*Subscription, mqtt.ReasonCode, error) {
	f, err := topic.ParseFilter(p.Filter)
	if err != nil {
		return nil, mqtt.TopicFilterInvalid, nil
	}
	if p.NoLocal && f.Shared() { // [MQTT-3.8.3-4]
		return nil, mqtt.ProtocolError, violation(mqtt.ProtocolError, "No Local on the Shared Subscription %q", p.Filter)
	}
	return &Subscription{
		Filter: f, QoS: p.QoS, NoLocal: p.NoLocal, RetainAsPublished: p.RetainAsPublished,
		RetainHandling: p.RetainHandling, ID: id,
	}, mqtt.Success, nil
}

// Subscribe adds the subscription or puts it in the place of the one with the
// same Topic Filter [MQTT-3.8.4-3]. It returns that one, or nil.
func (s *State) Subscribe(sub *Subscription) (old *Subscription) {
	key := sub.Filter.String()
	old = s.subscriptions[key]
	if s.subscriptions == nil {
		s.subscriptions = make(map[string]*Subscription)
	}
	s.subscriptions[key] = sub
	return old
}

// Subscribed reports whether there is a subscription with the same Topic Filter.
func (s *State) Subscribed(sub *Subscription) bool { return s.Has(sub.Filter.String()) }

// Has reports whether there is a subscription with exactly this Topic Filter.
func (s *State) Has(filter string) bool { return s.subscriptions[filter] != nil }

// SubscriptionCount is how many subscriptions the Session has.
func (s *State) SubscriptionCount() int { return len(s.subscriptions) }

// Unsubscribe removes the subscription with exactly this Topic Filter
// [MQTT-3.10.4-1] and returns it, or nil if there is none.
func (s *State) Unsubscribe(filter string) *Subscription {
	sub := s.subscriptions[filter]
	delete(s.subscriptions, filter)
	return sub
}

// Subscriptions yields the subscriptions in no particular order.
func (s *State) Subscriptions() iter.Seq[*Subscription] {
	return func(yield func(*Subscription) bool) {
		for _, sub := range s.subscriptions {
			if !yield(sub) {
				return
			}
		}
	}
}

// SharesAny reports whether the Session has a Shared Subscription.
func (s *State) SharesAny() bool {
	for key := range s.subscriptions {
		if strings.HasPrefix(key, "$share/") {
			return true
		}
	}
	return false
}
