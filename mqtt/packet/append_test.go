package packet

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fairlead/mqtt"
)

// user is what all properties of the packets below end with.
var user = []mqtt.UserProperty{{Name: "k", Value: "v"}, {Name: "k", Value: ""}}

// with returns properties whose values are those of p, marked as there.
func with(p Properties, ids ...mqtt.PropertyID) *Properties {
	for _, id := range ids {
		p.Mark(id)
	}
	p.User = user
	return &p
}

func reasonProps() *Properties { return with(Properties{ReasonString: "why"}, mqtt.ReasonString) }

// packets returns one of each packet that v has, with all that v lets it carry.
func packets(v mqtt.Version) []Packet {
	all := []Packet{
		&Connect{Version: v, ClientID: "c", CleanStart: true, KeepAlive: 60, HasUser: true, User: "u", HasPassword: true,
			Password: []byte{0, 255}, Will: &Will{QoS: mqtt.QoS2, Retain: true, Topic: "w", Payload: []byte("gone")}},
		&Connack{SessionPresent: v > mqtt.V31},
		&Publish{Topic: []byte("a"), Payload: []byte("x")},
		&Publish{Dup: true, QoS: mqtt.QoS1, Retain: true, ID: 7, Topic: []byte("a/b"), Payload: []byte{}},
		&Publish{QoS: mqtt.QoS2, ID: 65535, Topic: []byte("a"), Payload: bytes.Repeat([]byte("x"), 20_000)},
		&Puback{ID: 1}, &Pubrec{ID: 2}, &Pubrel{ID: 3}, &Pubcomp{ID: 4},
		&Subscribe{ID: 5, Subscriptions: []Subscription{{Filter: "a/#", QoS: mqtt.QoS1}, {Filter: "b"}}},
		&Suback{ID: 5, Reasons: []mqtt.ReasonCode{mqtt.GrantedQoS1, mqtt.UnspecifiedError}},
		&Unsubscribe{ID: 6, Filters: []string{"a/#", "b"}},
		&Unsuback{ID: 6},
		&Unsubscribe{ID: 6, Filters: []string{strings.Repeat("x", 200)}},
		&Unsubscribe{ID: 6, Filters: slices.Repeat([]string{strings.Repeat("x", textMax)}, 40)},
		&Pingreq{}, &Pingresp{}, &Disconnect{},
	}
	if v < mqtt.V5 {
		return append(all, &Connack{Reason: mqtt.NotAuthorized})
	}
	auth := Properties{AuthenticationMethod: "m", AuthenticationData: []byte{1}}
	return append(all, &Connect{Version: v, HasPassword: true, Password: []byte{},
		Will: &Will{Topic: "w", Payload: []byte{}, HasExpiry: true, Expiry: 9, Delay: 8,
			Properties: mqtt.Properties(nil).AppendUser(user[0])},
		Properties: with(Properties{SessionExpiry: 1, ReceiveMaximum: 2, MaximumPacketSize: 3, TopicAliasMaximum: 4,
			RequestResponseInfo: 1, AuthenticationMethod: "m", AuthenticationData: []byte{1}},
			mqtt.SessionExpiryInterval, mqtt.ReceiveMaximum, mqtt.MaximumPacketSize, mqtt.TopicAliasMaximum,
			mqtt.RequestResponseInformation, mqtt.RequestProblemInformation, mqtt.AuthenticationMethod,
			mqtt.AuthenticationData)},
		&Connack{Reason: mqtt.UseAnotherServer, Properties: with(Properties{SessionExpiry: 1, ReceiveMaximum: 2,
			MaximumQoS: 1, MaximumPacketSize: 4, AssignedClientID: "c", TopicAliasMaximum: 5, ReasonString: "why",
			SharedAvailable: 1, ServerKeepAlive: 6, ResponseInformation: "r", ServerReference: "s"},
			mqtt.SessionExpiryInterval, mqtt.ReceiveMaximum, mqtt.MaximumQoS, mqtt.RetainAvailable,
			mqtt.MaximumPacketSize, mqtt.AssignedClientIdentifier, mqtt.TopicAliasMaximum, mqtt.ReasonString,
			mqtt.WildcardSubscriptionAvailable, mqtt.SubscriptionIdentifierAvailable, mqtt.SharedSubscriptionAvailable,
			mqtt.ServerKeepAlive, mqtt.ResponseInformation, mqtt.ServerReference)},
		&Publish{QoS: mqtt.QoS1, ID: 9, HasExpiry: true, Expiry: 1, TopicAlias: 2, SubscriptionIDs: []uint32{1, 128, varintMax},
			Topic: []byte{}, Payload: []byte("x"),
			Properties: mqtt.Properties(nil).AppendUser(user[0]).AppendPayloadFormat(true).AppendContentType("t").
				AppendResponseTopic("r").AppendCorrelationData([]byte{0}).AppendUser(user[1])},
		&Puback{ID: 1, Reason: mqtt.NotAuthorized}, &Puback{ID: 1, Reason: mqtt.QuotaExceeded, Properties: reasonProps()},
		&Pubrec{ID: 1, Properties: reasonProps()}, &Pubrel{ID: 1, Properties: reasonProps()},
		&Pubcomp{ID: 1, Reason: mqtt.PacketIdentifierNotFound, Properties: reasonProps()},
		&Subscribe{ID: 1, Subscriptions: []Subscription{{Filter: "a", QoS: mqtt.QoS2, NoLocal: true, RetainAsPublished: true,
			RetainHandling: 2}}, Properties: with(Properties{SubscriptionID: varintMax}, mqtt.SubscriptionIdentifier)},
		&Suback{ID: 1, Reasons: []mqtt.ReasonCode{mqtt.TopicFilterInvalid}, Properties: reasonProps()},
		&Unsubscribe{ID: 1, Filters: []string{"a"}, Properties: with(Properties{})},
		&Unsuback{ID: 1, Reasons: []mqtt.ReasonCode{mqtt.NoSubscriptionExisted}, Properties: reasonProps()},
		&Disconnect{Properties: with(Properties{ReasonString: strings.Repeat("x", 300)}, mqtt.ReasonString)},
		&Disconnect{Reason: mqtt.ServerMoved, Properties: with(Properties{ServerReference: "s"}, mqtt.ServerReference)},
		&Auth{Reason: mqtt.ContinueAuthentication,
			Properties: with(auth, mqtt.AuthenticationMethod, mqtt.AuthenticationData)},
	)
}

var versions = []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}

// TestRoundTrip appends each packet in each version and reads it again.
func TestRoundTrip(t *testing.T) {
	for _, v := range versions {
		for _, p := range packets(v) {
			b, err := Append([]byte("before"), v, p)
			if err != nil {
				t.Errorf("%v: Append(%s) = %v", v, describe(p), err)
				continue
			}
			if !bytes.HasPrefix(b, []byte("before")) {
				t.Errorf("%v: Append(%s) changed what was before", v, describe(p))
			}
			want := p
			if u, ok := p.(*Suback); ok && v < mqtt.V5 {
				want = &Suback{ID: u.ID, Reasons: u.Reasons}
			}
			got, err := readOne(v, b[len("before"):])
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v: %.1000x is read as\n%.1000s, %v, want\n%.1000s", v, b[6:], describe(got), err, describe(want))
			}
		}
	}
}

// readOne reads the one packet that b is.
func readOne(v mqtt.Version, b []byte) (Packet, error) {
	r := Reader{Version: v}
	src := bytes.NewReader(b)
	for {
		if _, err := r.Fill(src); err != nil {
			return &Pingreq{}, err
		}
		p, err := r.Next()
		if err == ErrMore {
			continue
		}
		if err != nil {
			return &Pingreq{}, err
		}
		if n := r.Buffered() + src.Len(); n > 0 {
			return p, fmt.Errorf("%d bytes behind the packet", n)
		}
		return p, nil
	}
}

// TestAppendErrors lists what can't be encoded.
func TestAppendErrors(t *testing.T) {
	long := strings.Repeat("x", textMax+1)
	bad := "\xed\xa0\x80"
	publish := func(change func(p *Publish)) *Publish {
		p := &Publish{QoS: mqtt.QoS1, ID: 1, Topic: []byte("a")}
		change(p)
		return p
	}
	for _, c := range []struct {
		v    mqtt.Version
		p    Packet
		want string
	}{
		{mqtt.V5, publish(func(p *Publish) { p.Topic = []byte(long) }), "append PUBLISH: topic of 65536 bytes: expected at most 65535"},
		{mqtt.V5, publish(func(p *Publish) { p.Topic = []byte(bad) }), `append PUBLISH: topic "\xed\xa0\x80": not well-formed UTF-8`},
		{mqtt.V5, publish(func(p *Publish) { p.ID = 0 }), "append PUBLISH: Packet Identifier 0"},
		{mqtt.V5, publish(func(p *Publish) { p.QoS = 3 }), "append PUBLISH: unknown QoS 3"},
		{mqtt.V5, publish(func(p *Publish) { p.SubscriptionIDs = []uint32{1, 0} }), "append PUBLISH: Subscription Identifier 0: expected 1 to 268435455"},
		{mqtt.V311, publish(func(p *Publish) { p.Payload = make([]byte, varintMax) }), "append PUBLISH: 268435460 bytes: expected at most 268435455"},
		{mqtt.V311, &Connect{ClientID: "c"}, "append CONNECT: unknown version 0"},
		{mqtt.V311, &Connect{Version: mqtt.V311, ClientID: long}, "append CONNECT: 65536 bytes of text: expected at most 65535"},
		{mqtt.V311, &Connect{Version: mqtt.V311, ClientID: "a\x00"}, `append CONNECT: text "a\x00": null character U+0000`},
		{mqtt.V311, &Connect{Version: mqtt.V311, HasPassword: true}, "append CONNECT: Password without User Name in MQTT 3.1.1"},
		{mqtt.V5, &Connect{Version: mqtt.V5, HasPassword: true, Password: []byte(long)}, "append CONNECT: 65536 bytes of data: expected at most 65535"},
		{mqtt.V5, &Connect{Version: mqtt.V5, Will: &Will{QoS: 3}}, "append CONNECT: Will with unknown QoS 3"},
		{mqtt.V5, &Connect{Version: mqtt.V5, Properties: with(Properties{}, mqtt.ReceiveMaximum)}, "append CONNECT: Receive Maximum 0"},
		{mqtt.V5, &Connect{Version: mqtt.V5, Properties: with(Properties{RequestProblemInfo: 2}, mqtt.RequestProblemInformation)},
			"append CONNECT: 2 in a property that is 0 or 1"},
		{mqtt.V5, &Connack{Properties: with(Properties{}, mqtt.TopicAlias)}, "append CONNACK: property 35 does not belong there"},
		{mqtt.V5, &Connack{Properties: with(Properties{}, mqtt.AuthenticationData)},
			"append CONNACK: Authentication Data without Authentication Method"},
		{mqtt.V5, &Puback{}, "append PUBACK: Packet Identifier 0"},
		{mqtt.V311, &Pubrel{}, "append PUBREL: Packet Identifier 0"},
		{mqtt.V5, &Subscribe{ID: 1}, "append SUBSCRIBE: no Topic Filter"},
		{mqtt.V5, &Subscribe{ID: 1, Subscriptions: []Subscription{{Filter: "a", QoS: 3}}}, `append SUBSCRIBE: subscription to "a": unknown QoS 3`},
		{mqtt.V5, &Subscribe{ID: 1, Subscriptions: []Subscription{{Filter: "a", RetainHandling: 3}}},
			`append SUBSCRIBE: subscription to "a": Retain Handling 3`},
		{mqtt.V5, &Subscribe{ID: 1, Subscriptions: []Subscription{{Filter: "a"}}, Properties: with(Properties{}, mqtt.SubscriptionIdentifier)},
			"append SUBSCRIBE: Subscription Identifier 0: expected 1 to 268435455"},
		{mqtt.V5, &Unsubscribe{ID: 1}, "append UNSUBSCRIBE: no Topic Filter"},
		{mqtt.V311, &Auth{}, "append AUTH: MQTT 3.1.1 has no such packet"},
		{mqtt.V5, &Auth{Reason: mqtt.ContinueAuthentication}, "append AUTH: no Authentication Method"},
		{mqtt.V5, alien{}, "append SUBACK: packet.alien is not a packet of this package"},
	} {
		dst := []byte("before")
		got, err := Append(dst, c.v, c.p)
		if err == nil || err.Error() != c.want {
			t.Errorf("Append(%T) = %v, want %s", c.p, err, c.want)
		}
		if string(got) != "before" {
			t.Errorf("Append(%T) returned %q with its error, want dst as it was", c.p, got)
		}
	}
}

type alien struct{}

func (alien) Type() Type { return SUBACK }

// TestAppendAck compares the short way with the long one.
func TestAppendAck(t *testing.T) {
	for _, v := range versions {
		for _, r := range []mqtt.ReasonCode{mqtt.Success, mqtt.PacketIdentifierNotFound} {
			for _, p := range []Packet{&Puback{ID: 258, Reason: r}, &Pubrec{ID: 258, Reason: r},
				&Pubrel{ID: 258, Reason: r}, &Pubcomp{ID: 258, Reason: r}} {
				want, err := Append(nil, v, p)
				if err != nil {
					t.Fatal(err)
				}
				if got := AppendAck(nil, v, p.Type(), 258, r); !bytes.Equal(got, want) {
					t.Errorf("AppendAck(%v, %v, %v) = % x, want % x", v, p.Type(), r, got, want)
				}
			}
		}
	}
}

// TestIDOffset replaces the Packet Identifier and the DUP flag of packets that
// were encoded once.
func TestIDOffset(t *testing.T) {
	for _, v := range versions {
		for _, n := range []int{0, 100, 200, 20_000, 3_000_000} {
			p := &Publish{QoS: mqtt.QoS1, Topic: []byte("a/b"), HasExpiry: true, Payload: make([]byte, n)}
			b := AppendPublish(nil, v, p)
			b[0] |= DupBit
			b[IDOffset(b)], b[IDOffset(b)+1] = 0x12, 0x34
			got, err := readOne(v, b)
			if err != nil {
				t.Fatalf("%v, %d bytes: %v", v, n, err)
			}
			if got := got.(*Publish); got.ID != 0x1234 || !got.Dup || len(got.Payload) != n {
				t.Errorf("%v, %d bytes: ID %#x, Dup %v, %d bytes", v, n, got.ID, got.Dup, len(got.Payload))
			}
		}
	}
}

// TestReturnCodes shows what 3.1.1 clients are told, by Reason Code.
func TestReturnCodes(t *testing.T) {
	for r, want := range map[mqtt.ReasonCode]byte{
		mqtt.Success: 0, mqtt.UnsupportedProtocolVersion: 1, mqtt.ClientIdentifierNotValid: 2, mqtt.ServerUnavailable: 3,
		mqtt.BadUserNameOrPassword: 4, mqtt.NotAuthorized: 5, mqtt.Banned: 5, mqtt.BadAuthenticationMethod: 5,
		mqtt.ServerBusy: 3, mqtt.QuotaExceeded: 3, mqtt.UnspecifiedError: 3,
	} {
		b, err := Append(nil, mqtt.V311, &Connack{Reason: r})
		if err != nil || b[3] != want {
			t.Errorf("Connect Return code for %v = %d, %v, want %d", r, b[3], err, want)
		}
	}
	b, err := Append(nil, mqtt.V311, &Suback{ID: 1, Reasons: []mqtt.ReasonCode{mqtt.GrantedQoS2, mqtt.NotAuthorized}})
	if want := []byte{0x90, 4, 0, 1, 2, 0x80}; err != nil || !bytes.Equal(b, want) {
		t.Errorf("SUBACK of 3.1.1 = % x, %v, want % x", b, err, want)
	}
	b, err = Append(nil, mqtt.V31, &Connack{SessionPresent: true})
	if want := []byte{0x20, 2, 0, 0}; err != nil || !bytes.Equal(b, want) {
		t.Errorf("CONNACK of 3.1 = % x, %v, want % x", b, err, want)
	}
}
