package crash

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// A history of testdata/verdicts.txt, with what the model says to it.
type verdict struct{ title, history, want string }

// verdicts reads the file. A line "given NAME" stands for the block of that name.
func verdicts(t *testing.T) []verdict {
	t.Helper()
	text, err := os.ReadFile("testdata/verdicts.txt")
	if err != nil {
		t.Fatal(err)
	}
	given := make(map[string]string)
	var all []verdict
	for _, block := range strings.Split(string(text), "\n== ")[1:] {
		title, body, _ := strings.Cut(block, "\n")
		for name, lines := range given {
			body = strings.ReplaceAll(body, "given "+name+"\n", lines)
		}
		if name, ok := strings.CutPrefix(title, "given "); ok {
			given[name] = strings.TrimSpace(body) + "\n"
			continue
		}
		history, want, ok := strings.Cut(body, "----")
		if !ok || strings.Contains(history, "given") {
			t.Fatalf("%s: no line ----, or a block that is not given", title)
		}
		all = append(all, verdict{title, history, strings.TrimSpace(want)})
	}
	return all
}

// TestVerdicts shows that the model sees each planted fault, and none where a
// standard or a crash leaves something open.
func TestVerdicts(t *testing.T) {
	faults := make(map[fault]bool)
	for _, v := range verdicts(t) {
		t.Run(v.title, func(t *testing.T) {
			h, err := parseHistory(v.history)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, found := range judge(h).violations {
				faults[found.fault] = true
				got = append(got, found.String())
			}
			if text := strings.Join(got, "\n"); text != v.want {
				t.Errorf("judge says\n%s\nwant\n%s", text, v.want)
			}
		})
	}
	for _, f := range []fault{faultLost, faultDoubled, faultOrder, faultQoS, faultStray, faultRetained, faultWill, faultSession,
		faultUnanswered, faultClosed, faultDied} {
		if !faults[f] {
			t.Errorf("no history shows %q", f)
		}
	}
}

// TestEventText shows that a history can be read back from the file of a failure.
func TestEventText(t *testing.T) {
	zero := uint32(0)
	events := []event{
		{kind: started},
		{at: 1500 * time.Millisecond, kind: lost, client: "1-sub", conn: 2, text: "read: EOF"},
		{kind: sent, client: "c", conn: 1, packet: packet.CONNECT, connect: &connectFields{
			version: 5, clean: true, expiry: 7, receiveMax: 3, will: &willFields{"w/x", "w!1", 2, 9},
		}},
		{kind: received, client: "c", conn: 1, packet: packet.CONNACK, present: true, code: 0x87},
		{kind: sent, client: "c", conn: 1, packet: packet.PUBLISH, id: 9, qos: 2, dup: true, retain: true, topic: "a/b", message: "m.1"},
		{kind: sent, client: "c", conn: 1, packet: packet.PUBLISH, id: 9, qos: 1, topic: "a/b"},
		{kind: sent, client: "c", conn: 1, packet: packet.SUBSCRIBE, id: 1, subs: []filterQoS{{"$share/g/a:b/#", 1}, {"+", 2}}},
		{kind: received, client: "c", conn: 1, packet: packet.SUBACK, id: 1, codes: []mqtt.ReasonCode{1, 0x80}},
		{kind: sent, client: "c", conn: 1, packet: packet.DISCONNECT, code: 4, expiry: &zero},
		{kind: received, client: "c", conn: 1, packet: packet.PUBCOMP, id: 65535, code: 0x92},
	}
	for _, e := range events {
		got, err := parseHistory(e.String())
		if err != nil {
			t.Errorf("parse %q: %v", e.String(), err)
			continue
		}
		if back := got[0].String(); back != e.String() {
			t.Errorf("%q comes back as %q", e.String(), back)
		}
	}
	if _, err := parseHistory("0.1 sub < PUBLISH wrong=1"); err == nil {
		t.Error("a field that does not exist was accepted")
	}
}

func TestMatch(t *testing.T) {
	m := judge(nil)
	for _, tt := range []struct {
		pattern, topic string
		want           bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a", false}, {"a", "a/b", false}, {"a/#", "a", true}, {"a/#", "a/b/c", true}, {"#", "a/b", true},
		{"+/b", "a/b", true}, {"a/+", "a", false}, {"a/+/c", "a/b/c", true}, {"+", "a/b", false}, {"a/b/#", "a", false},
	} {
		if got := m.match(tt.pattern, tt.topic); got != tt.want {
			t.Errorf("match(%q, %q) = %v, want %v", tt.pattern, tt.topic, got, tt.want)
		}
	}
}

// TestPayload shows that damage to a payload is seen.
func TestPayload(t *testing.T) {
	sizes := make(map[bool]int)
	for i := range 500 {
		name := fmt.Sprintf("pub.%d", i)
		b := payload(name)
		sizes[len(b) > 4096]++
		if got := nameOf(b); got != name {
			t.Fatalf("nameOf(payload(%q)) = %q", name, got)
		}
		if got := nameOf(append(b, 'x')); !strings.HasPrefix(got, "damaged:") {
			t.Fatalf("a longer payload of %q is called %q", name, got)
		}
	}
	if sizes[true] == 0 || sizes[false] == 0 {
		t.Errorf("payloads are all alike: %v", sizes)
	}
}

// TestScenario shows that a scenario follows from its seed alone.
func TestScenario(t *testing.T) {
	a, b, other := newScenario(7, -1).String(), newScenario(7, -1).String(), newScenario(8, -1).String()
	if a != b {
		t.Error("the same seed makes two scenarios")
	}
	if a == other {
		t.Error("two seeds make the same scenario")
	}
	if n := len(newScenario(7, 0).Kills); n != 0 {
		t.Errorf("a scenario with 0 kills has %d", n)
	}
}
