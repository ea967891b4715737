package session

import (
	"fmt"
	"testing"

	"fairlead/mqtt"
)

// TestResumedFromBehindWhatWasAway restores a Session whose queue lay in three
// places, and takes into flight what stood in each of them when it was written down.
func TestResumedFromBehindWhatWasAway(t *testing.T) {
	message := func(n uint64) Delivery {
		return Delivery{Message: &mqtt.Message{Topic: fmt.Sprint("t/", n), Number: n}, QoS: mqtt.QoS2}
	}
	s := New("c")
	size := message(2).Message.Size()
	s.Restore(&Past{NextSeq: 7, Queue: []Delivery{message(1)}, Away: 1, AwayBytes: size, Tail: []Delivery{message(3), message(4)}})
	if !s.Resumed(8, 1, Delivery{}) {
		t.Error("message 1 does not wait at hand")
	}
	if s.Resumed(9, 3, Delivery{}) {
		t.Error("message 3 is found before what is away has come back")
	}
	s.Back([]Delivery{message(2)})
	if !s.Resumed(9, 3, Delivery{}) {
		t.Error("message 3 does not wait behind what was away")
	}
	var flight []string
	for h := range s.Flight() {
		flight = append(flight, fmt.Sprint(packetID(h.Seq), " ", h.Message.Number))
	}
	if got, want := fmt.Sprint(flight), "[8 1 9 3]"; got != want {
		t.Errorf("in flight %v, want %v", got, want)
	}
	if n, bytes := s.Queued(); n != 2 || bytes != 2*size {
		t.Errorf("%d messages of %d bytes wait, want 2 of %d", n, bytes, 2*size)
	}
}
