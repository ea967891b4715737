package session

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

var rewrite = flag.Bool("rewrite", false, "write what the Sessions do into testdata")

// TestConversations plays the scripts in testdata: an input a line, what it
// leads to below "----". With -rewrite the answers are written into the files.
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts in testdata: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { play(t, file) })
	}
}

func play(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	talk := newTalk()
	var out strings.Builder
	for _, part := range strings.Split(strings.TrimRight(string(text), "\n"), "\n\n") {
		inputs, want, ok := strings.Cut(part, "\n----")
		out.WriteString(inputs)
		if ok || *rewrite && !isComment(inputs) {
			got := talk.say(inputs)
			if want = strings.TrimPrefix(want, "\n"); !*rewrite && got != want {
				t.Errorf("%s\n%s\ngot:\n%s\nwant:\n%s", file, inputs, got, want)
			}
			out.WriteString("\n----")
			if got != "" {
				out.WriteString("\n" + got)
			}
		}
		out.WriteString("\n\n")
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func isComment(part string) bool {
	for line := range strings.Lines(part) {
		if !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// talk is a Session, what has been said to it, and its clock.
type talk struct {
	s   *State
	now time.Time
	lim Limits

	hold bool       // QoS 2 needs a record before it is sent
	gone []Delivery // what is elsewhere
}

func newTalk() *talk {
	return &talk{s: New("c"), now: time.Unix(1_000_000, 0), lim: Limits{
		ReceiveMaximum: 3, TopicAliasMaximum: 2, PacketBytes: 1000, ExpiryMax: ExpiryNever, WillDelayMax: 1000,
		InFlight: 2, AliasesOut: 10, Subscriptions: 2, QueueMessages: 3, QueueBytes: 1_000_000,
	}}
}

// say takes the lines of one part of a script and returns what happens.
func (k *talk) say(lines string) string {
	var out []string
	for _, line := range strings.Split(lines, "\n") {
		if !strings.HasPrefix(line, "#") {
			out = append(out, k.line(line)...)
			k.check()
		}
	}
	return strings.Join(out, "\n")
}

// check panics if an invariant of the Session does not hold.
func (k *talk) check() {
	f, n := &k.s.flight, 0
	for seq := f.head; seq != f.tail; seq++ {
		if f.at(seq).state != done {
			n++
		}
	}
	if n != f.n || f.tail-f.head > ids || f.head != f.tail && f.at(f.head).state == done {
		panic(fmt.Sprintf("window %d to %d counts %d of %d", f.head, f.tail, f.n, n))
	}
	if k.s.resend < f.head || k.s.resend > f.tail {
		panic(fmt.Sprintf("resend %d outside of %d to %d", k.s.resend, f.head, f.tail))
	}
	if k.s.up && k.s.quota > k.s.sendMax {
		panic(fmt.Sprintf("quota %d above %d", k.s.quota, k.s.sendMax))
	}
}

type words map[string]string

func (w words) num(key string) int {
	n, err := strconv.Atoi(w[key])
	if err != nil {
		panic(fmt.Sprintf("%s=%q: %v", key, w[key], err))
	}
	return n
}

func (w words) has(key string) bool { _, ok := w[key]; return ok }

func (w words) opt(key string, otherwise int) int {
	if !w.has(key) {
		return otherwise
	}
	return w.num(key)
}

func parse(line string) (string, words) {
	fields := strings.Fields(line)
	w := words{}
	for _, f := range fields[1:] {
		key, val, _ := strings.Cut(f, "=")
		w[key] = val
	}
	return fields[0], w
}

func (k *talk) line(line string) []string {
	verb, w := parse(line)
	switch verb {
	case "connect":
		return k.connect(w)
	case "disconnect":
		return k.disconnect(w)
	case "publish":
		return k.publish(w)
	case "doubt":
		k.s.Doubt(mqtt.PacketID(w.num("id")))
		return nil
	case "pubrel":
		return []string{fmt.Sprintf("send PUBCOMP id=%d %s", w.num("id"), k.s.Release(mqtt.PacketID(w.num("id"))))}
	case "deliver":
		return k.deliver(w)
	case "puback":
		d, err := k.s.Puback(mqtt.PacketID(w.num("id")))
		return append(outcome(d, err), k.pump()...)
	case "pubrec":
		return append(k.pubrec(w), k.pump()...)
	case "pubcomp":
		_, err := k.s.Pubcomp(mqtt.PacketID(w.num("id")))
		return append(oops(err), k.pump()...)
	case "hold":
		k.hold = true
		return nil
	case "marked":
		if d, ok := k.s.Marked(mqtt.PacketID(w.num("id"))); ok {
			return []string{fmt.Sprintf("send PUBLISH id=%d qos=%d %s", w.num("id"), d.QoS, d.Message.Topic)}
		}
		return k.pump()
	case "received":
		if k.s.Received(mqtt.PacketID(w.num("id"))) {
			return []string{fmt.Sprintf("send PUBREL id=%d", w.num("id"))}
		}
		return k.pump()
	case "leaving":
		k.gone = k.s.Leaving(k.gone, w.num("keep"), 1<<20)
		return []string{fmt.Sprintf("%d leave", len(k.gone))}
	case "left":
		k.s.Left(len(k.gone))
		return k.queued()
	case "back":
		n := min(w.num("n"), len(k.gone))
		k.s.Back(k.gone[:n])
		k.gone = k.gone[n:]
		return append(k.queued(), k.pump()...)
	case "subscribe":
		return k.subscribe(w)
	case "unsubscribe":
		return []string{fmt.Sprintf("known=%v", k.s.Unsubscribe(w["filter"]) != nil)}
	case "unshare":
		return k.unshare(w)
	case "pass":
		k.now = k.now.Add(time.Duration(w.num("seconds")) * time.Second)
		return nil
	case "alias":
		alias, known := k.s.Alias(w["topic"])
		return []string{fmt.Sprintf("alias=%d known=%v", alias, known)}
	}
	panic("unknown verb " + verb)
}

func oops(err error) []string {
	if err == nil {
		return nil
	}
	return []string{"error " + err.Error()}
}

func outcome(d Delivery, err error) []string {
	if err != nil {
		return oops(err)
	}
	if d.Message == nil {
		return []string{"not under way"}
	}
	return []string{"complete " + d.Message.Topic}
}

func (k *talk) connect(w words) []string {
	v := mqtt.Version(w.opt("v", 5))
	c := &packet.Connect{Version: v, CleanStart: w.has("clean"), ClientID: "c", KeepAlive: uint16(w.opt("keepalive", 0))}
	if w.has("id") {
		c.ClientID = w["id"]
	}
	if v >= mqtt.V5 {
		p := &packet.Properties{}
		for key, set := range map[string]func(n int){
			"expiry":   func(n int) { p.Mark(mqtt.SessionExpiryInterval); p.SessionExpiry = uint32(n) },
			"receive":  func(n int) { p.Mark(mqtt.ReceiveMaximum); p.ReceiveMaximum = uint16(n) },
			"aliases":  func(n int) { p.Mark(mqtt.TopicAliasMaximum); p.TopicAliasMaximum = uint16(n) },
			"packet":   func(n int) { p.Mark(mqtt.MaximumPacketSize); p.MaximumPacketSize = uint32(n) },
			"response": func(n int) { p.Mark(mqtt.RequestResponseInformation); p.RequestResponseInfo = byte(n) },
		} {
			if w.has(key) {
				set(w.num(key))
			}
		}
		c.Properties = p
	}
	if w.has("will") {
		c.Will = &packet.Will{Topic: w["will"], Delay: uint32(w.opt("delay", 0))}
	}
	if n := w.opt("server-keepalive", 0); n > 0 {
		k.lim.KeepAliveMax = uint16(n)
	}
	l, err := Open(c, &k.lim)
	if err != nil {
		return oops(err)
	}
	if l.CleanStart {
		k.s = New(l.ID)
	}
	k.s.Connect(l)
	return append([]string{"send CONNACK" + connack(l.Connack(false, l.ID == "", &k.lim))}, k.pump()...)
}

func connack(a *packet.Connack) (s string) {
	p := a.Properties
	for _, field := range []struct {
		id   mqtt.PropertyID
		name string
		val  func() any
	}{
		{mqtt.SessionExpiryInterval, "expiry", func() any { return p.SessionExpiry }},
		{mqtt.ReceiveMaximum, "receive", func() any { return p.ReceiveMaximum }},
		{mqtt.MaximumPacketSize, "packet", func() any { return p.MaximumPacketSize }},
		{mqtt.TopicAliasMaximum, "aliases", func() any { return p.TopicAliasMaximum }},
		{mqtt.ServerKeepAlive, "keepalive", func() any { return p.ServerKeepAlive }},
		{mqtt.ResponseInformation, "response", func() any { return p.ResponseInformation }},
		{mqtt.AssignedClientIdentifier, "assigned", func() any { return true }},
	} {
		if p.Has(field.id) {
			s += fmt.Sprintf(" %s=%v", field.name, field.val())
		}
	}
	return s
}

func (k *talk) disconnect(w words) []string {
	if w.has("expiry") {
		if err := k.s.SetExpiry(uint32(w.num("expiry")), k.lim.ExpiryMax); err != nil {
			return oops(err)
		}
	}
	p := k.s.Disconnect(Ending{Said: !w.has("lost"), Reason: mqtt.ReasonCode(w.opt("reason", 0))})
	var out []string
	if p.Will != nil {
		out = append(out, fmt.Sprintf("will %s after %v", p.Will.Message.Topic, p.WillAfter))
	}
	if p.Ends {
		out = append(out, fmt.Sprintf("ends after %v", p.EndsAfter))
	}
	return out
}

func (k *talk) publish(w words) []string {
	p := &packet.Publish{ID: mqtt.PacketID(w.opt("id", 0)), QoS: mqtt.QoS(w.opt("qos", 0)),
		Dup: w.has("dup"), Topic: []byte(w["topic"]), TopicAlias: uint16(w.opt("alias", 0))}
	if w.has("subid") {
		p.SubscriptionIDs = []uint32{1}
	}
	if w.has("response") {
		p.Properties = p.Properties.AppendResponseTopic(w["response"])
	}
	if err := k.s.Check(p); err != nil {
		return oops(err)
	}
	name := w["topic"]
	if w.has("alias") {
		var err error
		if name, err = k.s.Topic(p.TopicAlias, p.Topic); err != nil {
			return oops(err)
		}
	}
	if err := CheckTopic(name); err != nil {
		return oops(err)
	}
	if p.QoS < mqtt.QoS2 {
		return []string{"accept " + name}
	}
	repeated, err := k.s.Receive(p.ID, p.Dup, 0)
	if err != nil {
		return oops(err)
	}
	if repeated {
		return []string{fmt.Sprintf("send PUBREC id=%d", p.ID)}
	}
	k.s.Take(p.ID)
	return []string{"accept " + name, fmt.Sprintf("send PUBREC id=%d", p.ID)}
}

func (k *talk) deliver(w words) []string {
	m := &mqtt.Message{Topic: w["topic"], QoS: mqtt.QoS(w.opt("qos", 1)), Received: k.now}
	if w.has("expiry") {
		m.Expires = k.now.Add(time.Duration(w.num("expiry")) * time.Second)
	}
	d := Delivery{Message: m, QoS: m.QoS}
	if w.has("share") {
		d.Via = &Via{Share: w["share"]}
	}
	if k.s.Ready() {
		if k.hold && d.QoS == mqtt.QoS2 {
			return []string{fmt.Sprintf("mark id=%d %s", k.s.Send(d, true), m.Topic)}
		}
		return []string{fmt.Sprintf("send PUBLISH id=%d qos=%d %s", k.s.Send(d, false), d.QoS, m.Topic)}
	}
	if k.s.Full(&k.lim) {
		return []string{"full"}
	}
	k.s.Queue(d)
	return []string{"queue " + m.Topic}
}

func (k *talk) queued() []string {
	n, bytes := k.s.Queued()
	away, awayBytes := k.s.Away()
	return []string{fmt.Sprintf("%d wait, %d of them elsewhere; bytes agree: %v", n, away, bytes*away == awayBytes*n)}
}

func (k *talk) pubrec(w words) []string {
	id := mqtt.PacketID(w.num("id"))
	what, reason, err := k.s.Pubrec(id, mqtt.ReasonCode(w.opt("reason", 0)), k.hold)
	if err != nil {
		return oops(err)
	}
	switch what {
	case Record:
		return []string{fmt.Sprintf("record PUBREC id=%d", id)}
	case Nothing, Ended:
		return []string{"given up"}
	}
	return []string{fmt.Sprintf("send PUBREL id=%d %s", id, reason)}
}

// pump sends what may go.
func (k *talk) pump() (out []string) {
	hold := func(d Delivery) bool { return k.hold && d.QoS == mqtt.QoS2 }
	expired := 0
	for {
		o, ok := k.s.Next(k.now, hold)
		if ok && o.Expired {
			expired++
			continue
		}
		if expired > 0 {
			out = append(out, fmt.Sprintf("expired %d", expired))
			expired = 0
		}
		if !ok {
			return out
		}
		if o.Held {
			out = append(out, fmt.Sprintf("mark id=%d %s", o.ID, o.Message.Topic))
			continue
		}
		if o.Type == packet.PUBREL {
			out = append(out, fmt.Sprintf("send PUBREL id=%d", o.ID))
			continue
		}
		dup := ""
		if o.Dup {
			dup = " dup"
		}
		out = append(out, fmt.Sprintf("send PUBLISH id=%d qos=%d %s%s", o.ID, o.QoS, o.Message.Topic, dup))
	}
}

func (k *talk) subscribe(w words) []string {
	sub, reason, err := ParseSubscription(packet.Subscription{Filter: w["filter"], QoS: mqtt.QoS(w.opt("qos", 0)),
		NoLocal: w.has("nolocal"), RetainHandling: byte(w.opt("handling", 0))}, 0)
	if err != nil {
		return oops(err)
	}
	if sub == nil {
		return []string{"suback " + reason.String()}
	}
	if !k.s.Subscribed(sub) && k.s.SubscriptionCount() >= k.lim.Subscriptions {
		return []string{"suback " + mqtt.QuotaExceeded.String() + " retained=false"}
	}
	old, reason := k.s.Subscribe(sub), mqtt.ReasonCode(sub.QoS)
	return []string{fmt.Sprintf("suback %s retained=%v", reason, !reason.Failed() && sub.WantsRetained(old != nil))}
}

func (k *talk) unshare(w words) (out []string) {
	for _, d := range k.s.Unshare(w["share"]) {
		out = append(out, "elsewhere "+d.Message.Topic)
	}
	return out
}

// TestEachPacketID sends 200,000 messages through a small window: each
// identifier is used in turn, and never 0.
func TestEachPacketID(t *testing.T) {
	s := New("c")
	l, err := Open(&packet.Connect{Version: mqtt.V5, ClientID: "c"}, &Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s.Connect(l)
	m := &mqtt.Message{Topic: "a"}
	for i := range 200_000 {
		id := s.Send(Delivery{Message: m, QoS: mqtt.QoS1}, false)
		if want := mqtt.PacketID(i%65535 + 1); id != want {
			t.Fatalf("message %d has Packet Identifier %d, want %d", i, id, want)
		}
		if d, err := s.Puback(id); err != nil || d.Message != m {
			t.Fatalf("Puback(%d) = %v, %v", id, d, err)
		}
	}
}

// TestWindowStopsAtLastPacketID leaves one message unacknowledged: when all
// other identifiers have been used, nothing is sent until it is.
func TestWindowStopsAtLastPacketID(t *testing.T) {
	s := New("c")
	l, _ := Open(&packet.Connect{Version: mqtt.V5, ClientID: "c"}, &Limits{})
	s.Connect(l)
	m := &mqtt.Message{Topic: "a"}
	s.Send(Delivery{Message: m, QoS: mqtt.QoS1}, false)
	for s.Ready() {
		id := s.Send(Delivery{Message: m, QoS: mqtt.QoS1}, false)
		if _, err := s.Puback(id); err != nil {
			t.Fatal(err)
		}
		if id == 1 {
			t.Fatal("Packet Identifier 1 is used twice at a time")
		}
	}
	s.Puback(1)
	if !s.Ready() {
		t.Error("nothing may be sent after all is acknowledged")
	}
}

// TestErrorsHaveReasons holds each violation to the Reason Code it names.
func TestErrorsHaveReasons(t *testing.T) {
	err := CheckTopic("a/#")
	var e *Error
	if !errors.As(err, &e) || e.Reason != mqtt.TopicNameInvalid {
		t.Errorf("CheckTopic(%q) = %v, want reason %v", "a/#", err, mqtt.TopicNameInvalid)
	}
}

// FuzzSession says any words to a Session in any order: its invariants hold and
// nothing panics but them.
func FuzzSession(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, script string) {
		k := newTalk()
		lines := bufio.NewScanner(strings.NewReader(script))
		for n := 0; lines.Scan() && n < 200; n++ {
			func() {
				defer func() { // a script that makes no sense is none
					if r := recover(); r != nil && !strings.HasPrefix(fmt.Sprint(r), "unknown verb") && !strings.Contains(fmt.Sprint(r), "strconv") {
						panic(r)
					}
				}()
				if len(strings.Fields(lines.Text())) > 0 {
					k.line(lines.Text())
					k.check()
				}
			}()
		}
	})
}

func BenchmarkQoS1(b *testing.B) {
	s := New("c")
	l, _ := Open(&packet.Connect{Version: mqtt.V5, ClientID: "c"}, &Limits{})
	s.Connect(l)
	d := Delivery{Message: &mqtt.Message{Topic: "a"}, QoS: mqtt.QoS1}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Puback(s.Send(d, false)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkQoS2Inbound(b *testing.B) {
	s := New("c")
	b.ReportAllocs()
	id := mqtt.PacketID(1)
	for b.Loop() {
		if repeated, err := s.Receive(id, false, 0); repeated || err != nil {
			b.Fatal(repeated, err)
		}
		s.Take(id)
		s.Release(id)
		if id++; id == 0 {
			id = 1
		}
	}
}
