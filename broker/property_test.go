package broker

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"fairlead/mqtt"
)

// Property tests: random histories of what clients do (history_steps_test.go), played
// in a world of its own (history_stage_test.go).
//
// TestProperty lets the broker end and its store fail in between. The model in
// model_test.go, which knows only the standard and what was acknowledged, says what
// the clients may and must see. TestEqual compares what they see in one history with
// different stores and ends: see history_equal_test.go.
//
// A history that fails is printed with its seed, after all steps are dropped without
// which it fails as well.
var (
	propertyN    = flag.Int("property.n", 300, "how many histories TestProperty plays")
	propertySeed = flag.Uint64("property.seed", 1, "the seed of the first of them")
)

func TestProperty(t *testing.T) {
	for i := range *propertyN {
		seed := *propertySeed + uint64(i)
		h := newHistory(seed)
		err := h.play(t)
		if err == nil {
			continue
		}
		h.shrink(func(less *history) bool { return less.play(t) != nil })
		t.Errorf("go test ./broker -run TestProperty -property.n=1 -property.seed=%d\nat first: %v\nshrunk: %v\n%v",
			seed, err, h.play(t), h)
		return
	}
}

// history is what happens in one world.
type history struct {
	engine engine
	often  bool // checkpoints come by themselves
	limit  limit
	ending ending // what each doEnding is
	steady bool   // see device
	steps  []deed
}

// engine is what the broker keeps things in.
type engine string

const (
	noStore  engine = "no store"
	inMemory engine = "store/mem"
	onDisk   engine = "store/pebble"
)

// limit is what bounds the queues of Sessions.
type limit string

const (
	roomy limit = "default limits"
	short limit = "short queues"
	drops limit = "short queues that drop the oldest"
	aging limit = "queues in which messages age"
)

// shortQueue and queueAge are the limits, in messages and seconds.
const (
	shortQueue = 3
	queueAge   = 6
)

// deed is one thing that happens. What makes no sense at the time is left out, so
// that steps may be dropped.
type deed struct {
	do     action
	who    int // the client, if it is one's
	name   string
	qos    mqtt.QoS
	n      int
	clean  bool
	expiry int // of the Session or the message, in seconds; 0: of the message, none; -1: as before
	bytes  int
	will   int // delay in seconds; -1: no Will
	sub    options
	patience
}

// options are those of a subscription.
type options struct {
	noLocal     bool
	asPublished bool
	handling    byte
}

type action string

const (
	doConnect     action = "connect"
	doDisconnect  action = "disconnect"
	doStall       action = "hears nothing more"
	doSubscribe   action = "subscribe"
	doUnsubscribe action = "unsubscribe"
	doPublish     action = "publish"
	doRetain      action = "retain"
	doAcks        action = "acks"
	doPass        action = "pass"
	doCheckpoint  action = "checkpoint"
	doCrash       action = "crash"
	doRestart     action = "restart"
	doHold        action = "hold appends"
	doFailAppends action = "fail appends"
	doFailKV      action = "fail KV"
	doCutKV       action = "cut KV"
	doHeal        action = "heal"
	doEnding      action = "ending"
)

func (h *history) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s, checkpoints come by themselves: %v\n", h.engine, h.limit, h.often)
	for i, x := range h.steps {
		fmt.Fprintf(&b, "%2d %s\n", i, x)
	}
	return b.String()
}

func (x deed) String() string {
	switch x.do {
	case doConnect:
		text := fmt.Sprintf("c%d connect clean=%v expiry=%d receive=%d", x.who, x.clean, x.expiry, x.n)
		if x.will >= 0 {
			text += fmt.Sprintf(" will after %d qos=%d", x.will, x.qos)
		}
		return text
	case doDisconnect:
		return fmt.Sprintf("c%d %s expiry=%d", x.who, []string{"disconnect", "disconnect with will", "lost"}[x.n], x.expiry)
	case doStall:
		return fmt.Sprintf("c%d %s", x.who, x.do)
	case doPublish, doRetain:
		return fmt.Sprintf("c%d %s %s qos=%d n=%d bytes=%d expiry=%d", x.who, x.do, x.name, x.qos, x.n, x.bytes, x.expiry)
	case doSubscribe:
		return fmt.Sprintf("c%d %s %s qos=%d %+v", x.who, x.do, x.name, x.qos, x.sub)
	case doUnsubscribe:
		return fmt.Sprintf("c%d %s %s", x.who, x.do, x.name)
	case doAcks:
		return fmt.Sprintf("c%d gives %d acknowledgements, then %s", x.who, x.n, []string{"all at once", "none", "only PUBREC"}[x.patience])
	case doEnding:
		return fmt.Sprintf("%s %d, during the next step: %v", x.do, x.n, x.clean)
	}
	return fmt.Sprintf("%s %d", x.do, x.n)
}

// shrink drops steps as long as the history still fails.
func (h *history) shrink(fails func(less *history) bool) {
	for size := len(h.steps) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(h.steps); {
			less := *h
			less.steps = append(append([]deed(nil), h.steps[:at]...), h.steps[at+size:]...)
			if fails(&less) {
				h.steps = less.steps
			} else {
				at += size
			}
		}
	}
}

// play plays the history and returns what is wrong, or nil.
func (h *history) play(t *testing.T) error {
	return h.on(t, func(s *stage) {
		s.play(h.steps)
		s.finish()
		s.drained()
		s.over()
	})
}

// on makes a stage for the history, and returns what f has found to be wrong, or nil.
func (h *history) on(t *testing.T, f func(s *stage)) (err error) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, h)
		defer func() {
			switch v := recover().(type) {
			case nil:
			case violated:
				err = v
			default:
				panic(v)
			}
			s.close()
		}()
		f(s)
	})
	return err
}

// violated is what the model panics with.
type violated string

func (v violated) Error() string { return string(v) }
