package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/mqtt/topic"
)

// TestRetainedPages looks for what a filter selects, in the tree and through all that
// there is, while messages are replaced, removed and added: what has not been touched
// is found once, in the order of retaining, and what came later is not found.
func TestRetainedPages(t *testing.T) {
	const names = 3 * treeVisits
	r := rand.New(rand.NewPCG(7, 7))
	var s retained
	put := func(i int) {
		s.set(&mqtt.Message{Topic: fmt.Sprintf("%c/%d/%d", 'a'+i%3, i%7, i), Payload: []byte("x")})
	}
	for i := range names {
		put(i)
		if i%5 == 0 {
			put(r.IntN(i + 1)) // leaves a gap
		}
	}
	for _, pattern := range []string{"#", "a/#", "+/3/#", "+/+/77", "b/2/50", "none/#"} {
		f, err := topic.ParseFilter(pattern)
		if err != nil {
			t.Fatal(err)
		}
		sc := s.scan(&session.Subscription{Filter: f, QoS: mqtt.QoS1})
		due := make(map[*retainedMessage]bool)
		for _, k := range s.names.All {
			if topic.Match(pattern, k.message.Topic) {
				due[k] = true
			}
		}
		var last uint64
		for more := true; more; {
			var found []*retainedMessage
			found, more = s.page(&sc)
			for _, k := range found {
				if k.number <= last {
					t.Fatalf("%s: message %d comes behind message %d", pattern, k.number, last)
				}
				last = k.number
				if !due[k] {
					t.Fatalf("%s: message %d on %s came twice, or late", pattern, k.number, k.message.Topic)
				}
				delete(due, k)
			}
			for range 2000 {
				if i := r.IntN(names); i%2 == 0 {
					put(i)
				} else {
					s.remove(&mqtt.Message{Topic: fmt.Sprintf("%c/%d/%d", 'a'+i%3, i%7, i)})
				}
			}
		}
		for k := range due {
			if !k.gone.Load() {
				t.Errorf("%s: message %d on %s did not come", pattern, k.number, k.message.Topic)
				break
			}
		}
		if len(s.log) > 2*s.names.Len()+logSlack {
			t.Errorf("the log has %d places for %d messages", len(s.log), s.names.Len())
		}
	}
}
