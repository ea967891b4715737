package journal

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"fairlead/mqtt"
)

// reading is what one of a thousand sensors says: 64 bytes of payload.
func reading(i int) *mqtt.Message {
	return &mqtt.Message{
		Topic: fmt.Sprintf("site/7/line/%d/temperature", i%1000), Payload: bytes.Repeat([]byte("x"), 64),
		Publisher: mqtt.ClientID(fmt.Sprintf("sensor-%d", i%1000)), Received: noon.Add(time.Duration(i) * 3 * time.Microsecond), QoS: mqtt.QoS1,
	}
}

func readingOp(i int) Op {
	m := reading(i)
	return Op{Kind: Message, Client: m.Publisher, Message: m}
}

func readings(n int) []Delivery {
	ds := make([]Delivery, n)
	for i := range ds {
		ds[i] = Delivery{Number: 1_000_000 + uint64(i), Message: numbered(1_000_000+uint64(i), reading(i)), QoS: mqtt.QoS1}
	}
	return ds
}

// TestAllocs: what runs for every message does not allocate.
func TestAllocs(t *testing.T) {
	for _, s := range opSamples() {
		b := make([]byte, 0, 1024)
		if n := testing.AllocsPerRun(100, func() { b = AppendOp(b[:0], &s.value) }); n > 0 {
			t.Errorf("appending %s: %v allocations", s.name, n)
		}
	}
	b := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { b = Begin(b[:0]); Seal(b, Header{Time: noon}) }); n > 0 {
		t.Errorf("Begin and Seal: %v allocations", n)
	}
}

// TestChunkCosts holds what the format promises for small messages.
func TestChunkCosts(t *testing.T) {
	const n = 600
	ds := readings(n)
	b := AppendChunk(nil, ds)
	text := 0
	for _, d := range ds {
		text += len(d.Message.Topic) + len(d.Message.Publisher) + len(d.Message.Payload)
	}
	if each := float64(len(b)-text) / n; each > 10 {
		t.Errorf("%.1f bytes a message beside topic, publisher and payload: expected at most 10", each)
	}
	allocs := testing.AllocsPerRun(20, func() {
		if _, err := ReadChunk(b); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > n/20 {
		t.Errorf("%v allocations for %d messages: expected at most %d", allocs, n, n/20)
	}
}

func BenchmarkAppendOp(b *testing.B) {
	op := readingOp(7)
	rec := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		rec = AppendOp(rec[:0], &op)
	}
	b.ReportMetric(float64(len(rec)), "B/message")
}

// BenchmarkSeal is what a record of a thousand messages costs beside its ops.
func BenchmarkSeal(b *testing.B) {
	rec := thousand()
	b.ReportAllocs()
	b.SetBytes(int64(len(rec)))
	for b.Loop() {
		Seal(rec, Header{Time: noon, First: 1, Count: 1000})
	}
}

func thousand() []byte {
	ops := make([]Op, 1000)
	for i := range ops {
		ops[i] = readingOp(i)
	}
	return appendRecord(header(ops), ops)
}

// BenchmarkRead opens a record of a thousand messages and reads them all.
func BenchmarkRead(b *testing.B) {
	rec := thousand()
	b.ReportAllocs()
	b.SetBytes(int64(len(rec)))
	for b.Loop() {
		_, ops, err := Open(rec)
		var op Op
		for ok := true; ok && err == nil; {
			ok, err = ops.Next(&op)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	perMessage(b, 1000)
}

func BenchmarkAppendChunk(b *testing.B) {
	ds := readings(600)
	var chunk []byte
	b.ReportAllocs()
	for b.Loop() {
		chunk = AppendChunk(chunk[:0], ds)
	}
	b.SetBytes(int64(len(chunk)))
	perMessage(b, len(ds))
}

func BenchmarkReadChunk(b *testing.B) {
	chunk := AppendChunk(nil, readings(600))
	b.ReportAllocs()
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := ReadChunk(chunk); err != nil {
			b.Fatal(err)
		}
	}
	perMessage(b, 600)
}

func perMessage(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/message")
}
