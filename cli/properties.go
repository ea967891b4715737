package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

// Properties are the MQTT 5 properties that -D has set. Nil: none.
type Properties struct {
	Connect, Subscribe, Unsubscribe, Disconnect *packet.Properties
	Will                                        *packet.Will

	publish client.Message // its properties and expiry
	used    bool
	given   map[string]bool // "publish content-type"
}

// Apply gives m the properties of -D publish.
func (p *Properties) Apply(m *client.Message) {
	m.Properties, m.HasExpiry, m.Expiry = p.publish.Properties, p.publish.HasExpiry, p.publish.Expiry
	m.TopicAlias = p.publish.TopicAlias
}

// take sets one property from the arguments after -D.
func (p *Properties) take(packets, rest []string) (used int, err error) {
	if len(rest) < 3 {
		return 0, errors.New("expected PACKET NAME VALUE, for example: -D connect receive-maximum 10")
	}
	where, name := strings.ToLower(rest[0]), strings.ToLower(rest[1])
	if !slices.Contains(packets, where) {
		return 0, fmt.Errorf("packet %q: expected one of %s", rest[0], strings.Join(packets, ", "))
	}
	known := propertiesOf[where]
	if _, ok := known[name]; !ok {
		return 0, fmt.Errorf("property %q of %s: expected one of %s", rest[1], where, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	values := rest[2:3]
	if name == "user-property" {
		if len(rest) < 4 {
			return 0, fmt.Errorf("user-property: expected a name and a value: -D %s user-property NAME VALUE", where)
		}
		values = rest[2:4]
	}
	for _, v := range values {
		if len(v) > 65535 {
			return 0, fmt.Errorf("property %s: %d bytes: expected at most 65535", name, len(v))
		}
	}
	if err := p.once(where + " " + name); err != nil {
		return 0, err
	}
	if err := known[name](p, values); err != nil {
		return 0, fmt.Errorf("property %s: %w", name, err)
	}
	return 2 + len(values), nil
}

// once refuses a property that was given already; only User Properties may be
// repeated.
func (p *Properties) once(what string) error {
	p.used = true
	if p.given[what] && !strings.HasSuffix(what, " user-property") {
		return fmt.Errorf("%s: given twice", what)
	}
	if p.given == nil {
		p.given = make(map[string]bool)
	}
	p.given[what] = true
	return nil
}

// A setter puts the values of one property where they belong.
type setter func(p *Properties, values []string) error

// propertiesOf says which properties each packet has (MQTT 5, table 2-4, as far
// as a command's user has a say in them).
var propertiesOf = map[string]map[string]setter{
	"connect": {
		"authentication-method": inPacket(onConnect, text(mqtt.AuthenticationMethod, func(p *packet.Properties) *string { return &p.AuthenticationMethod })),
		"authentication-data": inPacket(onConnect, func(p *packet.Properties, v []string) error {
			p.AuthenticationData = []byte(v[0])
			p.Mark(mqtt.AuthenticationData)
			return nil
		}),
		"maximum-packet-size":          inPacket(onConnect, number32(mqtt.MaximumPacketSize, 1, func(p *packet.Properties) *uint32 { return &p.MaximumPacketSize })),
		"receive-maximum":              inPacket(onConnect, number16(mqtt.ReceiveMaximum, 1, func(p *packet.Properties) *uint16 { return &p.ReceiveMaximum })),
		"topic-alias-maximum":          inPacket(onConnect, number16(mqtt.TopicAliasMaximum, 0, func(p *packet.Properties) *uint16 { return &p.TopicAliasMaximum })),
		"session-expiry-interval":      inPacket(onConnect, number32(mqtt.SessionExpiryInterval, 0, func(p *packet.Properties) *uint32 { return &p.SessionExpiry })),
		"request-problem-information":  inPacket(onConnect, bit(mqtt.RequestProblemInformation, func(p *packet.Properties) *byte { return &p.RequestProblemInfo })),
		"request-response-information": inPacket(onConnect, bit(mqtt.RequestResponseInformation, func(p *packet.Properties) *byte { return &p.RequestResponseInfo })),
		"user-property":                inPacket(onConnect, user),
	},
	"subscribe": {
		"subscription-identifier": inPacket(onSubscribe, func(p *packet.Properties, v []string) error {
			n, err := number(v[0], 1, 268_435_455)
			p.SubscriptionID = uint32(n)
			p.Mark(mqtt.SubscriptionIdentifier)
			return err
		}),
		"user-property": inPacket(onSubscribe, user),
	},
	"unsubscribe": {"user-property": inPacket(onUnsubscribe, user)},
	"disconnect": {
		"session-expiry-interval": inPacket(onDisconnect, number32(mqtt.SessionExpiryInterval, 0, func(p *packet.Properties) *uint32 { return &p.SessionExpiry })),
		"user-property":           inPacket(onDisconnect, user),
	},
	"publish": with(message(onPublish), "topic-alias", func(p *Properties, v []string) error {
		n, err := number(v[0], 1, 1<<16-1)
		p.publish.TopicAlias = uint16(n)
		return err
	}),
	"will": with(message(onWill), "will-delay-interval", func(p *Properties, v []string) error {
		n, err := number(v[0], 0, 1<<32-1)
		onWill(p) // make it exist
		p.Will.Delay = uint32(n)
		return err
	}),
}

func with(m map[string]setter, name string, set setter) map[string]setter {
	m[name] = set
	return m
}

func made[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

func onConnect(p *Properties) *packet.Properties     { return made(&p.Connect) }
func onSubscribe(p *Properties) *packet.Properties   { return made(&p.Subscribe) }
func onUnsubscribe(p *Properties) *packet.Properties { return made(&p.Unsubscribe) }
func onDisconnect(p *Properties) *packet.Properties  { return made(&p.Disconnect) }

func inPacket(at func(*Properties) *packet.Properties, set func(*packet.Properties, []string) error) setter {
	return func(p *Properties, v []string) error { return set(at(p), v) }
}

func text(id mqtt.PropertyID, field func(*packet.Properties) *string) func(*packet.Properties, []string) error {
	return func(p *packet.Properties, v []string) error {
		*field(p) = v[0]
		p.Mark(id)
		return nil
	}
}

func number16(id mqtt.PropertyID, low uint64, field func(*packet.Properties) *uint16) func(*packet.Properties, []string) error {
	return func(p *packet.Properties, v []string) error {
		n, err := number(v[0], low, 1<<16-1)
		*field(p) = uint16(n)
		p.Mark(id)
		return err
	}
}

func number32(id mqtt.PropertyID, low uint64, field func(*packet.Properties) *uint32) func(*packet.Properties, []string) error {
	return func(p *packet.Properties, v []string) error {
		n, err := number(v[0], low, 1<<32-1)
		*field(p) = uint32(n)
		p.Mark(id)
		return err
	}
}

func bit(id mqtt.PropertyID, field func(*packet.Properties) *byte) func(*packet.Properties, []string) error {
	return func(p *packet.Properties, v []string) error {
		n, err := number(v[0], 0, 1)
		*field(p) = byte(n)
		p.Mark(id)
		return err
	}
}

func user(p *packet.Properties, v []string) error {
	p.User = append(p.User, mqtt.UserProperty{Name: v[0], Value: v[1]})
	return nil
}

func number(s string, low, high uint64) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%q: expected a whole number from %d to %d", s, low, high)
	}
	return n, nil
}

// carried is where the properties of an Application Message go: a PUBLISH or a
// Will.
type carried struct {
	properties *mqtt.Properties
	hasExpiry  *bool
	expiry     *uint32
}

func onPublish(p *Properties) carried {
	return carried{&p.publish.Properties, &p.publish.HasExpiry, &p.publish.Expiry}
}

func onWill(p *Properties) carried {
	w := made(&p.Will)
	return carried{&w.Properties, &w.HasExpiry, &w.Expiry}
}

// message are the properties that an Application Message carries.
func message(at func(*Properties) carried) map[string]setter {
	appended := func(add func(mqtt.Properties, []string) (mqtt.Properties, error)) setter {
		return func(p *Properties, v []string) (err error) {
			to := at(p).properties
			*to, err = add(*to, v)
			return err
		}
	}
	return map[string]setter{
		"payload-format-indicator": appended(func(p mqtt.Properties, v []string) (mqtt.Properties, error) {
			n, err := number(v[0], 0, 1)
			return p.AppendPayloadFormat(n == 1), err
		}),
		"content-type": appended(func(p mqtt.Properties, v []string) (mqtt.Properties, error) {
			return p.AppendContentType(v[0]), nil
		}),
		"response-topic": appended(func(p mqtt.Properties, v []string) (mqtt.Properties, error) {
			return p.AppendResponseTopic(v[0]), topic.CheckName(v[0])
		}),
		"correlation-data": appended(func(p mqtt.Properties, v []string) (mqtt.Properties, error) {
			return p.AppendCorrelationData([]byte(v[0])), nil
		}),
		"user-property": appended(func(p mqtt.Properties, v []string) (mqtt.Properties, error) {
			return p.AppendUser(mqtt.UserProperty{Name: v[0], Value: v[1]}), nil
		}),
		"message-expiry-interval": func(p *Properties, v []string) error {
			n, err := number(v[0], 0, 1<<32-1)
			to := at(p)
			*to.hasExpiry, *to.expiry = true, uint32(n)
			return err
		},
	}
}
