package crash

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"
)

// eventsMax bounds the history of one round; a scenario stays far below it, and
// what comes after is an error of the harness.
const eventsMax = 4_000_000

// history is everything that happened in a round, in the order of happening.
type history struct {
	begin time.Time

	mu     sync.Mutex // guards what follows
	events []event
	sealed bool
	full   bool // something was left out
	watch  *watch
	last   time.Time // of the latest event
}

// A watch waits for the nth event of a sort.
type watch struct {
	want func(*event) bool
	left int
	seen chan struct{} // closed at the event
}

func newHistory() *history { return &history{begin: time.Now(), last: time.Now()} }

// add writes down an event and gives it its time.
func (h *history) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sealed || h.full {
		return
	}
	h.full = len(h.events) >= eventsMax
	h.last = time.Now()
	e.at = h.last.Sub(h.begin)
	h.events = append(h.events, e)
	w := h.watch
	if w == nil || !w.want(&e) {
		return
	}
	if w.left--; w.left <= 0 {
		close(w.seen)
		h.watch = nil
	}
}

// await returns a channel that is closed at the nth event from now on that want
// wants. It replaces an earlier one.
func (h *history) await(n int, want func(*event) bool) <-chan struct{} {
	w := &watch{want: want, left: n, seen: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watch = w
	return w.seen
}

// latest is when the latest event happened.
func (h *history) latest() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// snapshot returns the events so far. They are not changed any more.
func (h *history) snapshot() []event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clip(h.events)
}

// seal ends the history: what happens from now on is no part of it. The error
// says that it has become too long to be judged.
func (h *history) seal() ([]event, error) {
	h.mu.Lock()
	h.sealed = true
	full := h.full
	h.mu.Unlock()
	if full {
		return nil, fmt.Errorf("a round of more than %d events can't be judged", eventsMax)
	}
	return h.snapshot(), nil
}

// payload is what a message carries: its name, and bytes that follow from the
// name, mostly few and now and then many, so that damage is seen.
func payload(name string) []byte {
	if name == "" {
		return nil
	}
	sum := fnv.New32a()
	sum.Write([]byte(name))
	n := int(sum.Sum32())
	length := n % 64
	if n%89 == 0 {
		length = 4096 + n%20_000
	}
	return []byte(name + " " + strings.Repeat(string(rune('a'+n%26)), length))
}

// nameOf returns the name of the message that a payload carries.
func nameOf(b []byte) string {
	name, _, _ := strings.Cut(string(b), " ")
	if string(payload(name)) != string(b) {
		return fmt.Sprintf("damaged:%.40q", b)
	}
	return name
}
