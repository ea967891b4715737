package journal

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"fairlead/mqtt"
)

// header is one for records of tests.
func header(ops []Op) Header {
	return Header{Time: noon, Epoch: 3, First: 41, Count: uint32(len(ops))}
}

func appendRecord(h Header, ops []Op) []byte {
	rec := Begin(nil)
	for i := range ops {
		rec = AppendOp(rec, &ops[i])
	}
	Seal(rec, h)
	return rec
}

func readRecord(rec []byte) (Header, []Op, error) {
	h, ops, err := Open(rec)
	if err != nil {
		return Header{}, nil, err
	}
	var all []Op
	op := opSamples()[3].value // what is in it must not matter
	for {
		ok, err := ops.Next(&op)
		if !ok {
			return h, all, err
		}
		all = append(all, op)
	}
}

func allOps() []Op {
	var ops []Op
	for _, s := range opSamples() {
		ops = append(ops, s.value)
	}
	return ops
}

// numberOps gives the ops the numbers that a reader gives them.
func numberOps(ops []Op, first uint64) []Op {
	for i := range ops {
		ops[i].Number = first + uint64(i)
		if ops[i].Message != nil {
			ops[i].Message.Number = ops[i].Number
		}
	}
	return ops
}

func TestOps(t *testing.T) {
	check := func(t *testing.T, ops []Op) {
		rec := appendRecord(header(ops), ops)
		h, got, err := readRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		if h != header(ops) {
			t.Errorf("header %+v, want %+v", h, header(ops))
		}
		if want := numberOps(ops, h.First); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	for _, s := range opSamples() {
		t.Run(s.name, func(t *testing.T) { check(t, []Op{s.value}) })
	}
	t.Run("all", func(t *testing.T) { check(t, allOps()) })
	t.Run("none", func(t *testing.T) { check(t, nil) })
}

// TestKinds holds that each kind has a name and a sample.
func TestKinds(t *testing.T) {
	seen := make(map[Kind]bool)
	for _, s := range opSamples() {
		seen[s.value.Kind] = true
	}
	for k := Kind(1); k <= kindMax; k++ {
		if !seen[k] || k.String() == "" {
			t.Errorf("kind %d: a sample %v, the name %q: expected both", k, seen[k], k)
		}
	}
	if got, want := Kind(0).String(), "unknown kind 0"; got != want {
		t.Errorf("Kind(0) = %q, want %q", got, want)
	}
}

func TestHeader(t *testing.T) {
	for _, h := range []Header{{}, {First: 1}, {Time: noon, Epoch: 1 << 63, First: 1 << 63}, {Time: time.Unix(0, 0).UTC()}} {
		got, _, err := Open(appendRecord(h, nil))
		if err != nil || got != h {
			t.Errorf("%+v is read as %+v, %v", h, got, err)
		}
	}
}

func TestValues(t *testing.T) {
	for _, s := range sessionSamples() {
		t.Run("session "+s.name, func(t *testing.T) { trip(t, s.value, AppendSession, ReadSession) })
	}
	for _, s := range chunkSamples() {
		t.Run("chunk "+s.name, func(t *testing.T) { trip(t, s.value, AppendChunk, ReadChunk) })
	}
	for _, s := range retainedSamples() {
		t.Run("retained "+s.name, func(t *testing.T) { trip(t, s.value, AppendRetained, ReadRetained) })
	}
}

func trip[T any](t *testing.T, want T, write func([]byte, T) []byte, read func([]byte) (T, error)) {
	t.Helper()
	b := write([]byte("before"), want)
	if !bytes.HasPrefix(b, []byte("before")) {
		t.Fatalf("what stood before the value is gone: %x", b)
	}
	got, err := read(b[len("before"):])
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestSameMessage: a message that follows itself is one message when it is read.
func TestSameMessage(t *testing.T) {
	ds, err := ReadChunk(AppendChunk(nil, mixed()))
	if err != nil {
		t.Fatal(err)
	}
	if ds[0].Message != ds[1].Message || ds[1].Message == ds[2].Message {
		t.Errorf("messages %p %p %p: expected one and another", ds[0].Message, ds[1].Message, ds[2].Message)
	}
}

// TestNumberOfMessage: a Delivery or Retained without a number has its message's.
func TestNumberOfMessage(t *testing.T) {
	ds, err := ReadChunk(AppendChunk(nil, []Delivery{{Message: numbered(5, bare())}}))
	if err != nil || ds[0].Number != 5 || ds[0].Message.Number != 5 {
		t.Errorf("a delivery of message 5 is read as %+v, %v", ds, err)
	}
	r, err := ReadRetained(AppendRetained(nil, &Retained{Message: numbered(5, bare())}))
	if err != nil || r.Number != 5 || r.Message.Number != 5 {
		t.Errorf("retained message 5 is read as %+v, %v", r, err)
	}
}

// TestTimes: what can't be expressed becomes the nearest that can, and only the
// zero time is none.
func TestTimes(t *testing.T) {
	zone := time.FixedZone("", 3600)
	for _, c := range []struct{ give, want time.Time }{
		{noon.In(zone), noon},
		{lastTime, lastTime.UTC()},
		{time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC), lastTime.UTC()},
		{time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC), firstTime.UTC()},
		{firstTime.Add(-1), firstTime.UTC()},
		{time.Time{}, time.Time{}},
	} {
		s, err := ReadSession(AppendSession(nil, &Session{EndsAt: c.give}))
		if err != nil || s.EndsAt != c.want {
			t.Errorf("%v is read as %v, %v: want %v", c.give, s.EndsAt, err, c.want)
		}
		h, _, err := Open(appendRecord(Header{Time: c.give}, nil))
		if err != nil || h.Time != c.want {
			t.Errorf("%v in a header is read as %v, %v: want %v", c.give, h.Time, err, c.want)
		}
	}
}

// TestEmptyIsNil: what has no bytes is nil when it is read.
func TestEmptyIsNil(t *testing.T) {
	m := &mqtt.Message{Topic: "t", Payload: []byte{}, Properties: mqtt.Properties{}}
	r, err := ReadRetained(AppendRetained(nil, &Retained{Message: m}))
	if err != nil || r.Message.Payload != nil || r.Message.Properties != nil {
		t.Errorf("payload %#v, Properties %#v, %v: expected nil", r.Message.Payload, r.Message.Properties, err)
	}
}

func TestNewer(t *testing.T) {
	for _, f := range []form{recordForm, sessionForm, chunkForm, retainedForm} {
		f.version++
		b := make([]byte, HeaderSize)
		f.seal(b)
		for name, err := range readAll(b) {
			var wrong *Error
			if newer := errors.Is(err, ErrNewer); newer != (name == f.name) || !newer && !errors.As(err, &wrong) {
				t.Errorf("%s of version %d read as %s: %v", f.name, f.version, name, err)
			}
		}
	}
}

// readAll reads b as each of the forms.
func readAll(b []byte) map[string]error {
	_, _, asRecord := readRecord(b)
	_, asSession := ReadSession(b)
	_, asChunk := ReadChunk(b)
	_, asRetained := ReadRetained(b)
	return map[string]error{
		recordForm.name: asRecord, sessionForm.name: asSession, chunkForm.name: asChunk, retainedForm.name: asRetained,
	}
}

func TestWriterPanics(t *testing.T) {
	for name, write := range map[string]func(){
		"unknown kind":            func() { AppendOp(nil, &Op{Kind: kindMax + 1}) },
		"kind 0":                  func() { AppendOp(nil, &Op{}) },
		"no message":              func() { AppendOp(nil, &Op{Kind: Message}) },
		"QoS 3":                   func() { AppendOp(nil, &Op{Kind: Message, Message: &mqtt.Message{Topic: "t", QoS: 3}}) },
		"Packet Identifier 0":     func() { AppendOp(nil, &Op{Kind: Release}) },
		"Retain Handling 3":       func() { AppendOp(nil, &Op{Kind: Subscribe, Subscription: Subscription{RetainHandling: 3}}) },
		"Subscription Identifier": func() { AppendOp(nil, &Op{Kind: Subscribe, Subscription: Subscription{ID: subscriptionIDMax + 1}}) },
		"identifier 0":            func() { AppendChunk(nil, []Delivery{{Message: bare(), IDs: []uint32{0}}}) },
		"ops from number 0":       func() { Seal(Begin(nil), Header{Count: 1}) },
		"empty delivery":          func() { AppendChunk(nil, []Delivery{{}}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("it is written, and no reader would take it")
				}
			}()
			write()
		})
	}
}
