package session

import (
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

// Inbound is the half of a Session that receives from the Client.
type Inbound struct {
	taken      *idSet   // QoS 2 messages accepted and not yet released [MQTT-4.3.3-10]; nil: never any
	doubtful   *idSet   // those of taken that may have been refused; nil: never any
	aliases    []string // by Topic Alias - 1; they end with the connection [MQTT-3.3.2-7]
	aliasMax   uint16
	receiveMax uint16
	v5         bool
}

func (in *Inbound) connect(l *Link) {
	in.aliases, in.aliasMax = nil, l.AliasesIn
	in.receiveMax, in.v5 = l.ReceiveMax, l.Version >= mqtt.V5
}

func (in *Inbound) disconnect() { in.aliases = nil }

// Topic returns the Topic Name of a PUBLISH with a Topic Alias: the one it
// brings, which the alias stands for from now on, or the one that the alias
// stands for [MQTT-3.3.2-8] [MQTT-3.3.2-12].
func (in *Inbound) Topic(alias uint16, name []byte) (string, error) {
	if alias == 0 || alias > in.aliasMax {
		return "", violation(mqtt.TopicAliasInvalid, "Topic Alias %d: expected 1 to %d", alias, in.aliasMax)
	}
	i := int(alias) - 1
	if len(name) == 0 {
		if i >= len(in.aliases) || in.aliases[i] == "" {
			return "", violation(mqtt.ProtocolError, "Topic Alias %d stands for no Topic Name yet", alias)
		}
		return in.aliases[i], nil
	}
	if i >= len(in.aliases) {
		in.aliases = append(in.aliases, make([]string, i+1-len(in.aliases))...)
	}
	if in.aliases[i] != string(name) {
		in.aliases[i] = string(name)
	}
	return in.aliases[i], nil
}

// Check keeps those rules for a PUBLISH from a Client that depend neither on
// its topic nor on the Session.
func (in *Inbound) Check(p *packet.Publish) error {
	if len(p.SubscriptionIDs) > 0 { // [MQTT-3.3.4-6]
		return violation(mqtt.ProtocolError, "Subscription Identifier in a PUBLISH from a Client")
	}
	if len(p.Topic) == 0 && p.TopicAlias == 0 {
		if in.v5 {
			return violation(mqtt.ProtocolError, "Topic Name is empty and there is no Topic Alias")
		}
		return violation(mqtt.TopicNameInvalid, "Topic Name is empty: expected at least one character") // [v3 MQTT-4.7.3-1]
	}
	return checkResponseTopic(p.Properties)
}

// CheckTopic refuses what is no Topic Name [MQTT-3.3.2-2].
func CheckTopic(name string) error {
	if err := topic.CheckName(name); err != nil {
		return violation(mqtt.TopicNameInvalid, "%v", err)
	}
	return nil
}

// Receive decides about a QoS 2 PUBLISH. If repeated, the message was accepted
// before: it only needs another PUBREC [MQTT-4.3.3-10]. Otherwise call
// [Inbound.Take] once the message is accepted; pending is how many others wait for
// that.
//
// If it is doubtful whether the message before was accepted, DUP decides: a Client
// that knows of a refusal is done with that message, and sends another [MQTT-3.3.1-2];
// one that does not know repeats it [MQTT-3.3.1-1].
func (in *Inbound) Receive(id mqtt.PacketID, dup bool, pending int) (repeated bool, err error) {
	if !in.taken.has(id) {
		return false, in.Room(pending)
	}
	if !dup && in.doubtful.has(id) {
		return false, in.Room(pending - 1) // it takes the place of the one before
	}
	return true, nil
}

// Room refuses a QoS 1 or 2 message beyond the Receive Maximum; pending is how many
// are neither acknowledged nor taken.
func (in *Inbound) Room(pending int) error {
	// Only 5.0 knows the limit; the set itself can't outgrow 65,535 identifiers.
	if in.v5 && in.taken.len()+pending >= int(in.receiveMax) { // [MQTT-3.3.4-7]
		return violation(mqtt.ReceiveMaximumExceeded, "more than %d QoS 1 and 2 messages under way", in.receiveMax)
	}
	return nil
}

// Take notes that the QoS 2 message is accepted. Until [Inbound.Release], the
// same Packet Identifier means the same message.
func (in *Inbound) Take(id mqtt.PacketID) {
	if in.taken == nil {
		in.taken = new(idSet)
	}
	in.taken.add(id)
	in.doubtful.remove(id)
}

// Doubt notes that the message taken under the Packet Identifier may have been
// refused, by a broker that did not live to know whether it is on disk.
func (in *Inbound) Doubt(id mqtt.PacketID) {
	if in.doubtful == nil {
		in.doubtful = new(idSet)
	}
	in.doubtful.add(id)
}

// Release ends the life of a Packet Identifier after PUBREL and returns what
// the PUBCOMP says [MQTT-4.3.3-11] [MQTT-4.3.3-12].
func (in *Inbound) Release(id mqtt.PacketID) mqtt.ReasonCode {
	in.doubtful.remove(id)
	if !in.taken.remove(id) {
		return mqtt.PacketIdentifierNotFound
	}
	return mqtt.Success
}

// Taken lists the Packet Identifiers that are taken, in ascending order.
func (in *Inbound) Taken() []mqtt.PacketID { return in.taken.list() }

// Doubtful lists those of them that [Inbound.Doubt] has noted.
func (in *Inbound) Doubtful() []mqtt.PacketID { return in.doubtful.list() }

// idSet is a set of Packet Identifiers. Clients take them in turn, so they lie
// side by side: pages of bits are small where a hash table would spread out. A
// nil idSet is empty.
type idSet struct {
	pages [64]*[1024 / 64]uint64
	n     int
}

func (s *idSet) len() int {
	if s == nil {
		return 0
	}
	return s.n
}

func (s *idSet) has(id mqtt.PacketID) bool {
	if s == nil {
		return false
	}
	page := s.pages[id>>10]
	return page != nil && page[id>>6&15]&(1<<(id&63)) != 0
}

// list returns the identifiers in ascending order.
func (s *idSet) list() []mqtt.PacketID {
	if s.len() == 0 {
		return nil
	}
	out := make([]mqtt.PacketID, 0, s.len())
	for id := 1; id <= ids; id++ {
		if s.pages[id>>10] == nil {
			id |= 1<<10 - 1
		} else if s.has(mqtt.PacketID(id)) {
			out = append(out, mqtt.PacketID(id))
		}
	}
	return out
}

func (s *idSet) add(id mqtt.PacketID) {
	if s.has(id) {
		return
	}
	page := s.pages[id>>10]
	if page == nil {
		page = new([1024 / 64]uint64)
		s.pages[id>>10] = page
	}
	page[id>>6&15] |= 1 << (id & 63)
	s.n++
}

func (s *idSet) remove(id mqtt.PacketID) bool {
	if !s.has(id) {
		return false
	}
	page := s.pages[id>>10]
	page[id>>6&15] &^= 1 << (id & 63)
	s.n--
	return true
}
