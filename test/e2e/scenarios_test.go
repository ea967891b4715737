package e2e

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// A scenario is what a client library must see, told in its own terms.
type scenario struct {
	name  string
	since int // the first Protocol Level that can do it
	run   func(t *testing.T, k kit)
}

var scenarios = []scenario{
	{"QoS", 3, qosLevels},
	{"LowerQoSOfTheTwo", 3, lowerQoS},
	{"Order", 3, order},
	{"Retained", 3, retained},
	{"Will", 3, will},
	{"Resume", 3, resume},
	{"SharedSubscription", 4, shared},
	{"BigPayload", 3, bigPayload},
	{"EmptyPayload", 3, emptyPayload},
	{"UTF8Topic", 3, utf8Topic},
	{"Wildcards", 3, wildcards},
	{"RequestResponse", 5, requestResponse},
	{"UserProperties", 5, userPropertiesInOrder},
	{"TopicAlias", 5, topicAlias},
}

// TestScenarios runs every scenario with every library.
func TestScenarios(t *testing.T) {
	for _, k := range kits {
		t.Run(clean(k.name), func(t *testing.T) {
			for _, s := range scenarios {
				if k.version < s.since {
					continue
				}
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					s.run(t, k)
				})
			}
		})
	}
}

// pair connects a subscriber of filter, at QoS 2, and a publisher.
func pair(t *testing.T, k kit, name, filter string) (sub, pub peer) {
	t.Helper()
	sub = k.dial(t, options{id: name + "sub"})
	sub.subscribe(filter, 2)
	return sub, k.dial(t, options{id: name + "pub"})
}

func qosLevels(t *testing.T, k kit) {
	name := unique()
	sub, pub := pair(t, k, name, name+"/+")
	for qos := range byte(3) {
		m := text(name+"/a", fmt.Sprint("at QoS ", qos), qos)
		pub.publish(m)
		want(t, sub, m)
	}
}

// lowerQoS: a message is delivered at the lower of the QoS it was published at
// and the QoS granted [MQTT-3.8.4-8].
func lowerQoS(t *testing.T, k kit) {
	name := unique()
	pub := k.dial(t, options{id: name + "pub"})
	for granted := range byte(3) {
		sub := k.dial(t, options{id: fmt.Sprintf("%ssub%d", name, granted)})
		topic := fmt.Sprint(name, "/", granted)
		sub.subscribe(topic, granted)
		for qos := range byte(3) {
			pub.publish(text(topic, "x", qos))
			want(t, sub, text(topic, "x", min(qos, granted)))
		}
	}
}

func order(t *testing.T, k kit) {
	name := unique()
	sub, pub := pair(t, k, name, name)
	for i := range 100 {
		pub.publish(text(name, fmt.Sprint(i), byte(1+i/50)))
	}
	for i := range 100 {
		want(t, sub, text(name, fmt.Sprint(i), byte(1+i/50)))
	}
}

func retained(t *testing.T, k kit) {
	name := unique()
	pub := k.dial(t, options{id: name + "pub"})
	kept := message{Topic: name + "/kept", Payload: []byte("last known"), QoS: 1, Retain: true}
	pub.publish(text(kept.Topic, "older", 1))
	pub.publish(kept)

	late := k.dial(t, options{id: name + "late"})
	late.subscribe(name+"/#", 1)
	want(t, late, kept)

	// To those who are subscribed already it is like any other message.
	pub.publish(kept)
	want(t, late, text(kept.Topic, "last known", 1))

	// An empty one removes it [MQTT-3.3.1-6].
	pub.publish(message{Topic: kept.Topic, QoS: 1, Retain: true})
	later := k.dial(t, options{id: name + "later"})
	later.subscribe(name+"/#", 1)
	pub.publish(text(name+"/end", "", 1))
	want(t, later, text(name+"/end", "", 1))
}

func will(t *testing.T, k kit) {
	name := unique()
	watcher := k.dial(t, options{id: name + "sub"})
	watcher.subscribe(name+"/#", 2)

	last := text(name+"/gone", "in a hurry", 1)
	k.dial(t, options{id: name + "a", will: &last}).abort()
	want(t, watcher, last)

	// After DISCONNECT there is no Will Message [MQTT-3.14.4-3].
	polite := text(name+"/gone", "must not be said", 1)
	k.dial(t, options{id: name + "b", will: &polite}).disconnect()
	k.dial(t, options{id: name + "c"}).publish(text(name+"/end", "", 1))
	want(t, watcher, text(name+"/end", "", 1))
}

// resume: what comes for an absent client waits for it, in order. Libraries that
// hand out a QoS 2 message at its PUBREL let QoS 1 overtake, so the levels
// follow each other.
func resume(t *testing.T, k kit) {
	name := unique()
	first := k.dial(t, options{id: name + "sub", resume: true})
	if first.sessionPresent() {
		t.Error("Session Present at the first connect")
	}
	first.subscribe(name, 2)
	first.disconnect()

	pub := k.dial(t, options{id: name + "pub"})
	for i := range 50 {
		pub.publish(text(name, fmt.Sprint(i), byte(1+i/25)))
	}

	again := k.dial(t, options{id: name + "sub", resume: true})
	if k.version > 3 && !again.sessionPresent() {
		t.Error("no Session Present at the second connect")
	}
	for i := range 50 {
		want(t, again, text(name, fmt.Sprint(i), byte(1+i/25)))
	}
	// The subscription is still there.
	pub.publish(text(name, "live", 2))
	want(t, again, text(name, "live", 2))
	again.disconnect()

	// A clean start leaves nothing behind [MQTT-3.1.2-4].
	if k.dial(t, options{id: name + "sub"}).sessionPresent() {
		t.Error("Session Present after a clean start")
	}
}

// shared: each message goes to exactly one of the members.
func shared(t *testing.T, k kit) {
	name := unique()
	var members []peer
	for i := range 3 {
		m := k.dial(t, options{id: fmt.Sprint(name, "m", i)})
		m.subscribe("$share/group/"+name+"/work", 1)
		m.subscribe(name+"/end", 1)
		members = append(members, m)
	}
	pub := k.dial(t, options{id: name + "pub"})
	var sent []string
	for i := range 60 {
		job := fmt.Sprintf("job %02d", i)
		sent = append(sent, job)
		pub.publish(text(name+"/work", job, 1))
	}
	pub.publish(text(name+"/end", "", 1))

	var got []string
	for _, m := range members {
		for job := receive(t, m); job.Topic != name+"/end"; job = receive(t, m) {
			got = append(got, string(job.Payload))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, sent) {
		t.Errorf("the members got %q, want each of %q once", got, sent)
	}
}

func bigPayload(t *testing.T, k kit) {
	name := unique()
	sub, pub := pair(t, k, name, name)
	payload := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16) // 1 MiB
	for qos := range byte(3) {
		m := message{Topic: name, Payload: payload, QoS: qos}
		pub.publish(m)
		want(t, sub, m)
	}
}

func emptyPayload(t *testing.T, k kit) {
	name := unique()
	sub, pub := pair(t, k, name, name)
	for qos := range byte(3) {
		pub.publish(text(name, "", qos))
		want(t, sub, text(name, "", qos))
	}
}

func utf8Topic(t *testing.T, k kit) {
	name := unique() + "/Gebäude 7/温度/🌡️"
	sub, pub := pair(t, k, unique(), name)
	pub.publish(text(name, "21 °C", 1))
	want(t, sub, text(name, "21 °C", 1))
}

func wildcards(t *testing.T, k kit) {
	name := unique()
	sub, pub := pair(t, k, name, name+"/+/b/#")
	for _, topic := range []string{"/a/b", "/a/x/c", "/a/b/c/d", "//b"} {
		pub.publish(text(name+topic, topic, 1))
	}
	for _, topic := range []string{"/a/b", "/a/b/c/d", "//b"} {
		want(t, sub, text(name+topic, topic, 1))
	}
}

func requestResponse(t *testing.T, k kit) {
	name := unique()
	service, client := pair(t, k, name, name+"/request")
	client.subscribe(name+"/reply", 1)

	request := text(name+"/request", "6 × 7", 1)
	request.V5 = properties{ResponseTopic: name + "/reply", CorrelationData: []byte{0, 1, 254, 255}}
	client.publish(request)

	asked := want(t, service, request)
	reply := text(asked.V5.ResponseTopic, "42", 1)
	reply.V5 = properties{CorrelationData: asked.V5.CorrelationData}
	service.publish(reply)

	answered := want(t, client, text(name+"/reply", "42", 1))
	if !bytes.Equal(answered.V5.CorrelationData, request.V5.CorrelationData) {
		t.Errorf("Correlation Data %x, want %x", answered.V5.CorrelationData, request.V5.CorrelationData)
	}
}

// userPropertiesInOrder: pairs travel unaltered and in their order [MQTT-3.3.2-17],
// [MQTT-3.3.2-18]. MQTT.js keeps the order only among pairs of the same name, so
// the test asks for no more.
func userPropertiesInOrder(t *testing.T, k kit) {
	name := unique()
	sub, pub := pair(t, k, name, name)
	m := text(name, "{}", 1)
	m.V5 = properties{ContentType: "application/json", User: [][2]string{{"trace", "7"}, {"tag", "red"}, {"tag", "blue"}, {"tag", "amber"}}}
	pub.publish(m)
	got := want(t, sub, m)
	if got.V5.ContentType != m.V5.ContentType || !slices.Equal(got.V5.User, m.V5.User) {
		t.Errorf("properties %+v, want %+v", got.V5, m.V5)
	}
}

// topicAlias: a publisher names the topic once and its alias from then on.
func topicAlias(t *testing.T, k kit) {
	name := unique()
	sub, pub := pair(t, k, name, name+"/+")
	for i := range 6 {
		m := text("", fmt.Sprint(i), byte(i%3))
		m.V5.TopicAlias = uint16(1 + i%2)
		topic := fmt.Sprint(name, "/", i%2)
		if i < 2 {
			m.Topic = topic
		}
		pub.publish(m)
		m.Topic = topic
		want(t, sub, m)
	}
}

// TestEveryLibraryToEveryLibrary: what one library publishes, all others read,
// at each QoS, whatever the versions.
func TestEveryLibraryToEveryLibrary(t *testing.T) {
	name := unique()
	subs := make([]peer, len(kits))
	for i, k := range kits {
		subs[i] = k.dial(t, options{id: fmt.Sprintf("%ss%d", name, i)})
		subs[i].subscribe(name, 2)
	}
	for i, k := range kits {
		pub := k.dial(t, options{id: fmt.Sprintf("%sp%d", name, i)})
		for qos := range byte(3) {
			m := text(name, fmt.Sprint(k.name, " at QoS ", qos), qos)
			pub.publish(m)
			for _, sub := range subs {
				want(t, sub, m)
			}
		}
	}
}
