package journal

import (
	"math"
	"time"

	"fairlead/mqtt"
)

// A sample is a value with each of its optional fields in use, or none.
type sample[T any] struct {
	name  string
	value T
}

var noon = time.Date(2026, 11, 25, 12, 0, 0, 123456789, time.UTC)

// plain is a message as a sensor sends it.
func plain() *mqtt.Message {
	return &mqtt.Message{Topic: "site/7/temp", Payload: []byte("21.5"), Publisher: "sensor-7", Received: noon, QoS: mqtt.QoS1}
}

// full is a message with all that one can have.
func full() *mqtt.Message {
	return &mqtt.Message{
		Topic: "site/7/ü", Payload: []byte{0, 0xFF}, Publisher: "other", Received: noon,
		Properties: mqtt.Properties(nil).AppendPayloadFormat(true).AppendContentType("text/plain").AppendResponseTopic("r").
			AppendCorrelationData([]byte{7}).AppendUser(mqtt.UserProperty{Name: "n", Value: ""}),
		Expires: noon.Add(time.Minute), QoS: mqtt.QoS2, Retain: true,
	}
}

// bare is a message that has as little as one can have.
func bare() *mqtt.Message { return &mqtt.Message{Topic: "t"} }

func numbered(n uint64, m *mqtt.Message) *mqtt.Message {
	m.Number = n
	return m
}

func opSamples() []sample[Op] {
	will := &Will{Message: mqtt.Message{Topic: "gone", Payload: []byte("c"), Publisher: "c", QoS: mqtt.QoS1, Retain: true}, Delay: 5}
	expiring := &Will{Message: mqtt.Message{Topic: "gone", Publisher: "c", Properties: full().Properties}, HasExpiry: true, Expiry: math.MaxUint32, Delay: math.MaxUint32}
	const shared = "$share/g/a/+/#"
	return []sample[Op]{
		{"connect", Op{Kind: Connect, Client: "c"}},
		{"connect clean", Op{Kind: Connect, Client: "c", Clean: true, Expiry: math.MaxUint32}},
		{"connect will", Op{Kind: Connect, Client: "c", Expiry: 300, Will: will}},
		{"connect will expiry", Op{Kind: Connect, Client: "c", Clean: true, Will: expiring}},
		{"connect owner", Op{Kind: Connect, Client: "c", Clean: true, Will: will, Owner: "user:anna"}},
		{"off", Op{Kind: Off, Client: "c", At: noon}},
		{"off will end", Op{Kind: Off, Client: "c", At: noon, WillAt: noon.Add(time.Second), EndsAt: noon.Add(time.Hour)}},
		{"off 1970", Op{Kind: Off, Client: "c", At: time.Unix(0, 0).UTC(), EndsAt: time.Unix(-1, 0).UTC()}},
		{"off nothing", Op{Kind: Off, Client: "c"}},
		{"end", Op{Kind: End, Client: "c"}},
		{"subscribe", Op{Kind: Subscribe, Client: "c", Subscription: Subscription{Filter: "a/+/#"}}},
		{"subscribe options", Op{Kind: Subscribe, Client: "c", Subscription: Subscription{
			Filter: shared, QoS: mqtt.QoS2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2, ID: subscriptionIDMax}}},
		{"unsubscribe", Op{Kind: Unsubscribe, Client: "c", Subscription: Subscription{Filter: shared}}},
		{"message", Op{Kind: Message, Client: "sensor-7", Message: plain()}},
		{"message full", Op{Kind: Message, Client: "c", ID: 65535, Message: full()}},
		{"message bare", Op{Kind: Message, Message: bare()}},
		{"message unsaid publisher", Op{Kind: Message, Client: "c", Message: bare()}},
		{"release", Op{Kind: Release, Client: "c", ID: 1}},
		{"send", Op{Kind: Send, Client: "c", ID: 300, Ref: math.MaxUint64}},
		{"send shared", Op{Kind: Send, Client: "c", ID: 1, Ref: 7, Share: shared}},
		{"send delivery", Op{Kind: Send, Client: "c", ID: 1, Share: shared, Delivery: &Delivery{
			Number: 9, Message: numbered(9, full()), QoS: mqtt.QoS2, Retain: true, IDs: []uint32{1, subscriptionIDMax}, Share: shared}}},
		{"receive", Op{Kind: Receive, Client: "c", ID: 65535}},
		{"will done", Op{Kind: WillDone, Client: "c"}},
		{"complete", Op{Kind: Complete, Client: "c", ID: 2}},
		{"return", Op{Kind: Return, Client: "c", ID: 3, Ref: 9, Share: shared, Delivery: &Delivery{
			Number: 9, Message: numbered(9, plain()), QoS: mqtt.QoS2, Share: shared}}},
	}
}

// mixed are deliveries in each relation that one can have to the one before.
func mixed() []Delivery {
	m := numbered(100, plain())
	ids := []uint32{1, 200}
	return []Delivery{
		{Number: 100, Message: m, QoS: mqtt.QoS1},
		{Number: 100, Message: m, QoS: mqtt.QoS2, IDs: ids}, // the same message
		{Number: 101, Message: numbered(101, plain()), QoS: mqtt.QoS1, IDs: ids},
		{Message: bare(), Share: "$share/g/t"},
		{Number: 99, Message: numbered(99, full()), QoS: mqtt.QoS2, Retain: true, Share: "$share/g/t"},
		{Number: math.MaxUint64, Message: numbered(math.MaxUint64, plain()), QoS: mqtt.QoS1},
		{Number: 1, Message: numbered(1, plain()), IDs: []uint32{subscriptionIDMax}, Share: "$share/h/#"},
		{Message: &mqtt.Message{Topic: "x", Received: noon.Add(-time.Hour), Expires: noon.Add(-2 * time.Hour)}},
		{Message: &mqtt.Message{Topic: "x", Expires: noon}},
	}
}

func chunkSamples() []sample[[]Delivery] {
	return []sample[[]Delivery]{
		{"empty", nil},
		{"one", []Delivery{{Message: bare()}}},
		{"mixed", mixed()},
	}
}

func retainedSamples() []sample[*Retained] {
	return []sample[*Retained]{
		{"bare", &Retained{Message: bare()}},
		{"full", &Retained{Number: 77, Message: numbered(77, full())}},
	}
}

func sessionSamples() []sample[*Session] {
	ds := mixed()
	return []sample[*Session]{
		{"bare", &Session{}},
		{"online", &Session{Client: "c", Upto: 12, Expiry: 60, Online: true}},
		{"full", &Session{
			Client: "c", Upto: math.MaxUint64, Expiry: math.MaxUint32, WillAt: noon, EndsAt: noon.Add(time.Hour),
			Will:          opSamples()[2].value.Will,
			Subscriptions: []Subscription{{Filter: "a", QoS: mqtt.QoS1}, opSamples()[11].value.Subscription},
			Taken:         []mqtt.PacketID{65535, 1},
			NextID:        math.MaxUint64,
			Flight:        []InFlight{{Seq: 8, Delivery: ds[0]}, {Seq: 9, Released: true}, {Seq: 5, Delivery: ds[1]}},
			Queue:         ds[2:4], FirstChunk: 3, NextChunk: 5, Spilled: 600, SpilledBytes: 1 << 40, Tail: ds[4:],
		}},
		{"doubt", &Session{Client: "c", Taken: []mqtt.PacketID{1, 2, 3}, Doubtful: []mqtt.PacketID{2, 65535}}},
		{"owner", &Session{Client: "c", Owner: "device:d-1"}},
		{"owed", &Session{Client: "c", Owed: []Owed{
			{Subscription: opSamples()[10].value.Subscription, UpTo: 7},
			{Subscription: opSamples()[11].value.Subscription, UpTo: math.MaxUint64, From: 5, Sent: math.MaxUint64 - 1},
		}}},
	}
}
