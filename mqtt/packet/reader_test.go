package packet

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"fairlead/mqtt"
)

// readAll reads packets until the source ends or a packet is wrong, and returns
// what they say.
func readAll(r *Reader, src io.Reader) (said []string, err error) {
	for {
		p, err := r.Next()
		if err == nil {
			said = append(said, describe(p))
			continue
		}
		if !errors.Is(err, ErrMore) {
			return append(said, describeError(err)), err
		}
		r.Release()
		if _, err := r.Fill(src); err != nil {
			return said, err
		}
	}
}

// TestChunks cuts the bytes of all scripts at every place, and into single
// bytes: what is read stays the same.
func TestChunks(t *testing.T) {
	for _, file := range scripts(t) {
		for _, s := range steps(t, file) {
			if s.input == "" {
				continue
			}
			whole, _ := readAll(&Reader{Version: s.v, MaxBytes: s.max}, bytes.NewReader(s.bytes))
			compare := func(how string, n int, src io.Reader) {
				got, _ := readAll(&Reader{Version: s.v, MaxBytes: s.max}, src)
				if !slices.Equal(got, whole) {
					t.Errorf("%s\n%s\n%s %d:\n%q, want\n%q", s.options, s.input, how, n, got, whole)
				}
			}
			for i := 1; i < len(s.bytes); i++ {
				compare("cut at", i, io.MultiReader(bytes.NewReader(s.bytes[:i]), bytes.NewReader(s.bytes[i:])))
			}
			compare("bytes", 1, iotest.OneByteReader(bytes.NewReader(s.bytes)))
		}
	}
}

// TestLongStream reads packets of all sizes up to 3 MB from a source that gives
// as much as it is asked for, and from one that gives half of it.
func TestLongStream(t *testing.T) {
	var stream []byte
	var sizes []int
	for n := 1; n < 3_000_000; n = n*3/2 + 1 {
		sizes = append(sizes, n, 0)
		stream = AppendPublish(stream, mqtt.V5, &Publish{Topic: []byte("a"), Payload: bytes.Repeat([]byte{byte(n)}, n)})
		stream = AppendPublish(stream, mqtt.V5, &Publish{Topic: []byte("a")})
	}
	for name, src := range map[string]io.Reader{
		"whole": bytes.NewReader(stream), "half": iotest.HalfReader(bytes.NewReader(stream)),
	} {
		r := Reader{Version: mqtt.V5}
		for i := 0; i < len(sizes); {
			p, err := r.Next()
			if err == nil {
				payload := p.(*Publish).Payload
				if len(payload) != sizes[i] || len(bytes.Trim(payload, string([]byte{byte(sizes[i])}))) > 0 {
					t.Fatalf("%s: packet %d is not what was sent", name, i)
				}
				i++
				continue
			}
			if !errors.Is(err, ErrMore) {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := r.Fill(src); err != nil {
				t.Fatalf("%s: %v after %d packets", name, err, i)
			}
			if r.buf != nil && len(r.buf.b) > max(largeBuffer, 2*r.Buffered()) {
				t.Fatalf("%s: a buffer of %d bytes for %d", name, len(r.buf.b), r.Buffered())
			}
		}
	}
}

// TestIdleReaderHoldsNothing follows the buffer of a connection that speaks now
// and then.
func TestIdleReaderHoldsNothing(t *testing.T) {
	r := Reader{Version: mqtt.V5}
	src := &lentSource{reader: &r}
	for _, chunk := range []string{"\xc0\x00", "\x40\x02\x00", "\x01", "\x30\x04\x00\x01a\x00"} {
		src.chunk = chunk
		wasEmpty := r.Buffered() == 0
		if n, err := r.Fill(src); n != len(chunk) || err != nil {
			t.Fatalf("Fill = %d, %v, want %d", n, err, len(chunk))
		}
		if src.heldWhileWaiting == wasEmpty {
			t.Errorf("before %q: a buffer is held: %v, want %v", chunk, src.heldWhileWaiting, !wasEmpty)
		}
		for {
			if _, err := r.Next(); err != nil {
				break
			}
		}
		r.Release()
		if held := r.buf != nil; held != (r.Buffered() > 0) {
			t.Errorf("after %q: %d bytes wait, a buffer is held: %v", chunk, r.Buffered(), held)
		}
	}
	if r.publish.Topic != nil || r.publish.Payload != nil {
		t.Error("a Reader without buffer still points into one")
	}
	src.chunk = ""
	if n, err := r.Fill(src); n != 0 || err != io.EOF || r.buf != nil {
		t.Errorf("Fill at the end = %d, %v, with a buffer: %v", n, err, r.buf != nil)
	}
}

// lentSource gives its chunk at the second try, as a socket does.
type lentSource struct {
	reader           *Reader
	chunk            string
	heldWhileWaiting bool
}

func (s *lentSource) Read([]byte) (int, error) { panic("Fill prefers ReadLent") }

func (s *lentSource) ReadLent(l Lender) (int, error) {
	if len(l.Lend()) == 0 {
		return 0, io.ErrShortBuffer
	}
	l.Return()
	s.heldWhileWaiting = s.reader.buf != nil
	if s.chunk == "" {
		return 0, io.EOF
	}
	return copy(l.Lend(), s.chunk), nil
}

// TestBufferGrowsWithWhatArrives announces 256 MB and sends little of it.
func TestBufferGrowsWithWhatArrives(t *testing.T) {
	r := Reader{Version: mqtt.V5}
	src := io.MultiReader(bytes.NewReader([]byte("\x30\xff\xff\xff\x7f\x00\x01a\x00")), zeros{})
	for r.Buffered() < 2_000_000 {
		if _, err := r.Next(); !errors.Is(err, ErrMore) {
			t.Fatal(err)
		}
		if _, err := r.Fill(src); err != nil {
			t.Fatal(err)
		}
		if most := max(largeBuffer, 2*r.Buffered()); len(r.buf.b) > most {
			t.Fatalf("a buffer of %d bytes for %d, want at most %d", len(r.buf.b), r.Buffered(), most)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestLargePacketEndsExactly reads a packet above the pooled sizes: the buffer
// does not grow beyond its end, and is not kept.
func TestLargePacketEndsExactly(t *testing.T) {
	const n = pooledBuffer + 1000
	b := AppendPublish(nil, mqtt.V311, &Publish{Topic: []byte("a"), Payload: make([]byte, n)})
	r := Reader{Version: mqtt.V311, MaxBytes: len(b)}
	src := io.MultiReader(bytes.NewReader(b), bytes.NewReader([]byte("\xc0\x00")))
	said, err := readAll(&r, src)
	if len(said) != 2 || err != io.EOF {
		t.Fatalf("read %d packets, %v, want 2", len(said), err)
	}
	r = Reader{Version: mqtt.V311, MaxBytes: len(b)}
	for src := bytes.NewReader(b); ; {
		if _, err := r.Next(); err == nil {
			break
		}
		if _, err := r.Fill(src); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.buf.b) != len(b) {
		t.Errorf("buffer of %d bytes for a packet of %d", len(r.buf.b), len(b))
	}
	if r.Lend(); len(r.buf.b) > largeBuffer {
		t.Errorf("buffer of %d bytes is kept for the next packet", len(r.buf.b))
	}
}

// TestFillWithoutNext goes on filling although packets wait.
func TestFillWithoutNext(t *testing.T) {
	r := Reader{Version: mqtt.V5}
	pings := bytes.NewReader(bytes.Repeat([]byte{0xc0, 0}, largeBuffer))
	for {
		if _, err := r.Fill(pings); err != nil {
			if err != errUnread {
				t.Fatalf("Fill = %v, want %v", err, errUnread)
			}
			break
		}
		if len(r.buf.b) > largeBuffer {
			t.Fatalf("the buffer has grown to %d bytes", len(r.buf.b))
		}
	}
	for range largeBuffer / 2 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Fill(pings); err != nil {
		t.Errorf("Fill once the packets are read = %v", err)
	}
}

// TestBusyStreamTakesALargeBuffer follows the size of the buffer.
func TestBusyStreamTakesALargeBuffer(t *testing.T) {
	r := Reader{Version: mqtt.V5}
	pings := bytes.NewReader(bytes.Repeat([]byte{0xc0, 0}, largeBuffer))
	// The first two reads fill their buffers, the third does not: the stream has
	// calmed down.
	for i, want := range []int{smallBuffer, largeBuffer, largeBuffer, smallBuffer} {
		if i == 3 {
			pings.Reset([]byte{0xc0, 0})
		}
		if _, err := r.Fill(pings); err != nil {
			t.Fatal(err)
		}
		if len(r.buf.b) != want {
			t.Errorf("read %d: buffer of %d bytes, want %d", i, len(r.buf.b), want)
		}
		for r.Buffered() > 0 {
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
		}
		r.Release()
	}
}

// TestPropertiesAreAView makes sure that forwarded properties are not copied, and
// that appending to them does not write over the payload.
func TestPropertiesAreAView(t *testing.T) {
	for _, forward := range []bool{true, false} {
		props := mqtt.Properties(nil).AppendUser(user[0])
		p := &Publish{Topic: []byte("a"), Properties: props, Payload: []byte("payload"), HasExpiry: !forward}
		r := Reader{Version: mqtt.V5}
		if _, err := r.Fill(bytes.NewReader(AppendPublish(nil, mqtt.V5, p))); err != nil {
			t.Fatal(err)
		}
		next, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		got := next.(*Publish)
		if !bytes.Equal(got.Properties, props) {
			t.Errorf("Properties = %q, want %q", got.Properties, props)
		}
		_ = append(got.Properties, "overwritten"...)
		if string(got.Payload) != "payload" {
			t.Errorf("Payload = %q after an append to Properties", got.Payload)
		}
	}
}

// TestSubscriptionIDsAreNotKept reads a PUBLISH with very many of them: what it
// took is gone with the buffer.
func TestSubscriptionIDsAreNotKept(t *testing.T) {
	for _, n := range []int{subIDsKept, 50 * subIDsKept} {
		p := &Publish{Topic: []byte("a"), SubscriptionIDs: slices.Repeat([]uint32{7}, n)}
		r := Reader{Version: mqtt.V5}
		if _, err := r.Fill(bytes.NewReader(AppendPublish(nil, mqtt.V5, p))); err != nil {
			t.Fatal(err)
		}
		next, err := r.Next()
		if err != nil || len(next.(*Publish).SubscriptionIDs) != n {
			t.Fatalf("Next = %v, want %d Subscription Identifiers", err, n)
		}
		if r.Release(); cap(r.subIDs) > subIDsKept {
			t.Errorf("room for %d Subscription Identifiers is kept, want at most %d", cap(r.subIDs), subIDsKept)
		}
	}
}

// TestErrorText is what ends up in the log.
func TestErrorText(t *testing.T) {
	r := Reader{Version: mqtt.V5}
	if _, err := r.Fill(bytes.NewReader([]byte{0x36, 0})); err != nil {
		t.Fatal(err)
	}
	_, err := r.Next()
	if want := "read PUBLISH: byte 0: QoS 3 (0x81 Malformed Packet)"; err == nil || err.Error() != want {
		t.Errorf("Next = %v, want %s", err, want)
	}
}
