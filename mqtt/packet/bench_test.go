package packet

import (
	"bytes"
	"io"
	"testing"

	"fairlead/mqtt"
)

// hot are the packets that must not cost an allocation, read or appended.
func hot() map[string]Packet {
	payload := bytes.Repeat([]byte("x"), 128)
	return map[string]Packet{
		"PUBLISH/QoS0": &Publish{Topic: []byte("site/7/line/3/temperature"), Payload: payload},
		"PUBLISH/QoS1": &Publish{QoS: mqtt.QoS1, ID: 7, Topic: []byte("site/7/line/3/temperature"), Payload: payload},
		"PUBLISH/properties": &Publish{QoS: mqtt.QoS1, ID: 7, Topic: []byte("site/7/line/3/temperature"), Payload: payload,
			HasExpiry: true, Expiry: 60, TopicAlias: 3, SubscriptionIDs: []uint32{1, 2},
			Properties: mqtt.Properties(nil).AppendContentType("application/json").AppendUser(user[0])},
		"PUBACK":  &Puback{ID: 7},
		"PUBREC":  &Pubrec{ID: 7, Reason: mqtt.NoMatchingSubscribers},
		"PUBREL":  &Pubrel{ID: 7},
		"PUBCOMP": &Pubcomp{ID: 7},
		"PINGREQ": &Pingreq{},
	}
}

// endless gives the same packet for ever, one a read.
type endless []byte

func (e endless) Read(b []byte) (int, error) { return copy(b, e), nil }

// next reads one packet, from Fill to Release.
func next(r *Reader, src io.Reader) error {
	if _, err := r.Fill(src); err != nil {
		return err
	}
	_, err := r.Next()
	r.Release()
	return err
}

// TestAllocs reads and appends what a connection says most without allocating.
func TestAllocs(t *testing.T) {
	for name, p := range hot() {
		b, err := Append(nil, mqtt.V5, p)
		if err != nil {
			t.Fatal(err)
		}
		r := &Reader{Version: mqtt.V5}
		src := io.Reader(endless(b))
		if n := testing.AllocsPerRun(100, func() { err = next(r, src) }); n > 0.5 || err != nil {
			t.Errorf("reading %s: %v allocations, %v", name, n, err)
		}
		if p.Type() == PINGREQ {
			continue // the broker keeps its bytes
		}
		if n := testing.AllocsPerRun(100, func() { b, err = Append(b[:0], mqtt.V5, p) }); n > 0.5 || err != nil {
			t.Errorf("appending %s: %v allocations, %v", name, n, err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for name, p := range hot() {
		b.Run(name, func(b *testing.B) {
			frame, err := Append(nil, mqtt.V5, p)
			if err != nil {
				b.Fatal(err)
			}
			r := &Reader{Version: mqtt.V5}
			src := io.Reader(endless(frame))
			b.ReportAllocs()
			b.SetBytes(int64(len(frame)))
			for b.Loop() {
				if err := next(r, src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadBatch reads packets that came many at a time.
func BenchmarkReadBatch(b *testing.B) {
	frame, err := Append(nil, mqtt.V5, hot()["PUBLISH/QoS1"])
	if err != nil {
		b.Fatal(err)
	}
	const many = 100
	src := io.Reader(endless(bytes.Repeat(frame, many)))
	r := &Reader{Version: mqtt.V5}
	b.ReportAllocs()
	for b.Loop() {
		r.busy = true
		if _, err := r.Fill(src); err != nil {
			b.Fatal(err)
		}
		for range many {
			if _, err := r.Next(); err != nil {
				b.Fatal(err)
			}
		}
		r.Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/many, "ns/packet")
}

func BenchmarkAppend(b *testing.B) {
	for name, p := range hot() {
		b.Run(name, func(b *testing.B) {
			var dst []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if dst, err = Append(dst[:0], mqtt.V5, p); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(dst)))
		})
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	p := hot()["PUBLISH/QoS1"].(*Publish)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendPublish(dst[:0], mqtt.V5, p)
	}
}

func BenchmarkAppendAck(b *testing.B) {
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendAck(dst[:0], mqtt.V5, PUBACK, 7, mqtt.Success)
	}
}
