package journal

import (
	"reflect"
	"runtime/metrics"
	"testing"
)

// The targets read any bytes, as they are and with a frame that fits: nothing
// panics, and nothing takes memory that the input does not justify. What is read
// can be written, in a form that is read as the same.

func FuzzOpen(f *testing.F) {
	for _, s := range opSamples() {
		f.Add(appendRecord(Header{First: 1, Count: 1}, []Op{s.value})[frameSize:])
	}
	ops := allOps()
	for _, half := range [][]Op{ops[:len(ops)/2], ops[len(ops)/2:]} {
		f.Add(appendRecord(header(half), half)[frameSize:])
	}
	type whole struct {
		Header Header
		Ops    []Op
	}
	fuzz(f, recordForm, func(b []byte) (whole, error) {
		h, ops, err := readRecord(b)
		return whole{h, ops}, err
	}, func(dst []byte, w whole) []byte {
		return append(dst, appendRecord(w.Header, w.Ops)...)
	})
}

func FuzzReadSession(f *testing.F) {
	for _, s := range sessionSamples() {
		f.Add(AppendSession(nil, s.value)[frameSize:])
	}
	fuzz(f, sessionForm, ReadSession, AppendSession)
}

func FuzzReadChunk(f *testing.F) {
	for _, s := range chunkSamples() {
		f.Add(AppendChunk(nil, s.value)[frameSize:])
	}
	f.Add(AppendChunk(nil, readings(4))[frameSize:])
	fuzz(f, chunkForm, ReadChunk, AppendChunk)
}

func FuzzReadRetained(f *testing.F) {
	for _, s := range retainedSamples() {
		f.Add(AppendRetained(nil, s.value)[frameSize:])
	}
	fuzz(f, retainedForm, ReadRetained, AppendRetained)
}

// fuzzMax is the longest input, in bytes, that a target looks at. Longer ones find
// nothing more, and the fuzzer spends the whole of a short run on shortening them.
const fuzzMax = 512

func fuzz[T any](f *testing.F, kind form, read func([]byte) (T, error), write func([]byte, T) []byte) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > fuzzMax {
			return
		}
		if v, err := read(b); err == nil { // a fuzzer does not find a CRC; if it does, all holds
			again(t, v, read, write)
		}
		framed := append(make([]byte, frameSize), b...)
		kind.seal(framed)
		before := allocated()
		v, err := read(framed)
		if took, most := allocated()-before, allowance(len(framed)); took > most {
			t.Errorf("%d bytes allocated for %d bytes of input: expected at most %d", took, len(framed), most)
		}
		if err == nil {
			again(t, v, read, write)
		}
	})
}

// allowance is what reading n bytes may allocate. A delivery takes 72 bytes in
// memory and as little as one of input, and a slice that grows is copied; what else
// happens in the process is in the constant.
func allowance(n int) uint64 { return 1<<20 + 256*uint64(n) }

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func again[T any](t *testing.T, v T, read func([]byte) (T, error), write func([]byte, T) []byte) {
	t.Helper()
	b := write(nil, v)
	w, err := read(b)
	if err != nil {
		t.Fatalf("%+v was read, and is written as %x: %v", v, b, err)
	}
	if !reflect.DeepEqual(v, w) {
		t.Errorf("%+v was read, and is written as %x, which is %+v", v, b, w)
	}
}
