package journal

import (
	"encoding/binary"
	"math"

	"fairlead/mqtt"
)

// HeaderSize is how many bytes of a record come before its ops.
const HeaderSize = frameSize + 8 + 8 + 8 + 4

// Begin appends room for the header of a record to dst. Append ops behind it, and
// then call [Seal].
func Begin(dst []byte) []byte { return reserve(dst, HeaderSize) }

// Seal fills in the header of rec, which begins with the room that [Begin] made
// and ends with the last op. The caller has counted the ops.
func Seal(rec []byte, h Header) {
	if h.Count > 0 && !h.numbered() {
		panic("journal: a record whose ops have no numbers is to be written")
	}
	at := int64(noTime)
	if !h.Time.IsZero() {
		at = nano(h.Time)
	}
	b := rec[frameSize:HeaderSize]
	binary.BigEndian.PutUint64(b, uint64(at))
	binary.BigEndian.PutUint64(b[8:], h.Epoch)
	binary.BigEndian.PutUint64(b[16:], h.First)
	binary.BigEndian.PutUint32(b[24:], h.Count)
	recordForm.seal(rec)
}

// numbered reports whether Count numbers from First on are numbers of ops.
func (h *Header) numbered() bool {
	return h.First > 0 && h.First <= math.MaxUint64-uint64(h.Count)
}

// Open checks a record as a whole and returns its header and its ops, of which
// nothing has been read yet. An error is an [*Error] or wraps [ErrNewer].
func Open(rec []byte) (Header, Ops, error) {
	c, err := recordForm.open(rec, HeaderSize)
	if err != nil {
		return Header{}, Ops{}, err
	}
	b := rec[frameSize:HeaderSize]
	h := Header{
		Epoch: binary.BigEndian.Uint64(b[8:]),
		First: binary.BigEndian.Uint64(b[16:]),
		Count: binary.BigEndian.Uint32(b[24:]),
	}
	if at := int64(binary.BigEndian.Uint64(b)); at != noTime {
		h.Time = fromNano(at)
	}
	if h.Count > 0 && !h.numbered() {
		return Header{}, Ops{}, recordForm.wrong(frameSize+16, "%d ops from number %d: expected numbers from 1", h.Count, h.First)
	}
	c.at = HeaderSize
	return h, Ops{c: c, next: h.First, left: h.Count}, nil
}

// Ops reads the ops of a record one after the other.
type Ops struct {
	c    cursor
	next uint64 // number of the next op
	left uint32

	client mqtt.ClientID // of the op before: one record holds many of one Client
	arena  arena
}

// Next reads the next op into op, whatever op holds, and returns false when there
// is none. Message bodies are not copied: what is read keeps the record alive, and
// the record must not be changed. After an [*Error] the same error returns.
func (o *Ops) Next(op *Op) (ok bool, err error) {
	*op = Op{}
	if o.c.err != nil {
		return false, o.c.err
	}
	if o.left == 0 {
		return false, o.c.end()
	}
	op.Number = o.next
	o.op(op)
	if e := o.c.err; e != nil {
		if op.Kind != 0 {
			e.What = op.Kind.String() + ": " + e.What
		}
		*op = Op{}
		return false, e
	}
	o.next++
	o.left--
	return true, nil
}
