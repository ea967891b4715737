package packet

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"

	"fairlead/mqtt"
)

// FuzzReader reads any bytes in any chunks. Nothing panics, chunks change
// nothing, and a packet that was read can be appended: in a form that is read as
// the same packet and appended as the same bytes.
func FuzzReader(f *testing.F) {
	for _, file := range scripts(f) {
		for _, s := range steps(f, file) {
			if s.input != "" {
				f.Add(byte(s.v), s.bytes, byte(3))
			}
		}
	}
	f.Fuzz(func(t *testing.T, version byte, b []byte, chunk byte) {
		v := []mqtt.Version{0, mqtt.V5, mqtt.V311, mqtt.V31, mqtt.V311, mqtt.V5}[version%6]
		const most = 1 << 20
		whole, _ := readAll(&Reader{Version: v, MaxBytes: most}, bytes.NewReader(b))
		r := Reader{Version: v, MaxBytes: most}
		cut, _ := readAll(&r, &chunks{b, int(chunk)})
		if !slices.Equal(whole, cut) {
			t.Errorf("in chunks of up to %d: %q, want %q", chunk, cut, whole)
		}
		fixpoint(t, v, b)
	})
}

// chunks gives a few bytes more each time, and begins anew.
type chunks struct {
	b    []byte
	most int
}

func (c *chunks) Read(b []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 1+len(c.b)%(c.most+1))], c.b)
	c.b = c.b[n:]
	return n, nil
}

// fixpoint appends each packet that b holds, and reads it again.
func fixpoint(t *testing.T, v mqtt.Version, b []byte) {
	r := Reader{Version: v}
	for {
		p, err := r.Next()
		if errors.Is(err, ErrMore) {
			n, err := r.Fill(bytes.NewReader(b))
			if err != nil {
				return
			}
			b = b[n:]
			continue
		}
		if err != nil {
			return
		}
		version := r.Version
		if c, ok := p.(*Connect); ok {
			version = c.Version
		}
		once, err := Append(nil, r.Version, p)
		if err != nil {
			t.Fatalf("%s was read, but: %v", describe(p), err)
		}
		again, err := readOne(version, once)
		if err != nil {
			t.Fatalf("%s is appended as % x: %v", describe(p), once, err)
		}
		if !reflect.DeepEqual(again, p) {
			t.Fatalf("% x is read as\n%s, want\n%s", once, describe(again), describe(p))
		}
		if twice, err := Append(nil, r.Version, again); err != nil || !bytes.Equal(twice, once) {
			t.Fatalf("%s is appended as % x, %v, then as % x", describe(p), once, err, twice)
		}
	}
}
