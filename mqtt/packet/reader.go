package packet

import (
	"errors"
	"io"
	"sync"

	"fairlead/mqtt"
)

// ErrMore says that the bytes so far hold no whole packet.
var ErrMore = errors.New("packet: more bytes are needed")

// Lender hands out a buffer to read into. A source that waits asks for it only
// once there is something to read, so that an idle connection holds no buffer.
type Lender interface {
	// Lend returns the free part of the buffer. It is never empty.
	Lend() []byte
	// Return takes it back unused.
	Return()
}

// LentReader is a source that reads into a lent buffer. ReadLent is like
// io.Reader's Read, but calls l.Lend right before it tries to read, and l.Return
// before it waits. When it returns n > 0, n bytes stand in the lent buffer.
type LentReader interface {
	ReadLent(l Lender) (n int, err error)
}

// Reader cuts a stream of bytes into packets. Fill it, then call Next until it
// says ErrMore. The zero Reader waits for a CONNECT.
//
// The packets that a Client sends most are kept in the Reader and used again: a
// packet is valid until the next call of any method.
type Reader struct {
	// Version is that of the connection. A CONNECT sets it; while it is 0, only
	// a CONNECT is understood.
	Version mqtt.Version
	// MaxBytes is the Maximum Packet Size, with the fixed header; 0: what the
	// protocol can say. A longer packet is refused by its header.
	MaxBytes int

	buf  *buffer // nil: nothing is held
	r, w int     // the bytes buf.b[r:w] are not consumed yet
	busy bool    // the last read has filled the buffer: take a large one

	publish Publish
	puback  Puback
	pubrec  Pubrec
	pubrel  Pubrel
	pubcomp Pubcomp
	scratch []byte   // stripped properties of a PUBLISH
	subIDs  []uint32 // Subscription Identifiers of a PUBLISH
}

// buffer is what the pools hold.
type buffer struct{ b []byte }

// The sizes of read buffers: most connections say little, some say much. What
// grows beyond is not used again.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, smallBuffer)} }}
	largeBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, largeBuffer)} }}
)

// Fill reads once from src into the buffer. If src is a [LentReader], the Reader
// holds no buffer while src waits.
func (r *Reader) Fill(src io.Reader) (int, error) {
	var n int
	var err error
	if lr, ok := src.(LentReader); ok {
		n, err = lr.ReadLent(r)
	} else {
		n, err = src.Read(r.Lend())
	}
	if n > 0 {
		r.Filled(n)
	} else {
		r.Return()
	}
	return n, err
}

// Lend implements [Lender].
func (r *Reader) Lend() []byte {
	r.makeRoom()
	return r.buf.b[r.w:]
}

// Return implements [Lender].
func (r *Reader) Return() { r.Release() }

// Filled says that n bytes stand in the lent buffer.
func (r *Reader) Filled(n int) {
	r.w += n
	r.busy = r.w == len(r.buf.b)
}

// Buffered is the number of bytes that are not consumed yet.
func (r *Reader) Buffered() int { return r.w - r.r }

// Release gives the buffer back if it is empty.
func (r *Reader) Release() {
	if r.buf == nil || r.r < r.w {
		return
	}
	switch len(r.buf.b) {
	case smallBuffer:
		smallBuffers.Put(r.buf)
	case largeBuffer:
		largeBuffers.Put(r.buf)
	}
	r.buf, r.r, r.w = nil, 0, 0
}

// makeRoom sees to it that the buffer has free bytes. It grows only when it is
// full, so it never holds more than twice of what has really arrived.
func (r *Reader) makeRoom() {
	switch {
	case r.buf == nil && r.busy:
		r.buf = largeBuffers.Get().(*buffer)
	case r.buf == nil:
		r.buf = smallBuffers.Get().(*buffer)
	case r.r == r.w:
		r.r, r.w = 0, 0
	case r.w == len(r.buf.b) && r.r > 0:
		r.w = copy(r.buf.b, r.buf.b[r.r:r.w])
		r.r = 0
	}
	if r.w < len(r.buf.b) {
		return
	}
	old := r.buf
	if len(old.b) < largeBuffer {
		r.buf = largeBuffers.Get().(*buffer)
	} else {
		r.buf = &buffer{make([]byte, 2*len(old.b))}
	}
	copy(r.buf.b, old.b[:r.w])
	switch len(old.b) {
	case smallBuffer:
		smallBuffers.Put(old)
	case largeBuffer:
		largeBuffers.Put(old)
	}
}

// Next returns the next packet, or ErrMore. Any other error is an [*Error]: the
// stream can't be read any further.
func (r *Reader) Next() (Packet, error) {
	if r.r == r.w {
		return nil, ErrMore
	}
	b := r.buf.b[r.r:r.w]
	if err := r.checkFirst(b[0]); err != nil {
		return nil, err
	}
	length, header, err := r.header(b)
	if err != nil {
		return nil, err
	}
	if len(b) < header+length {
		return nil, ErrMore
	}
	p, err := r.decode(b[0], b[header:header+length], header)
	if err != nil {
		return nil, err
	}
	r.r += header + length
	return p, nil
}

// header reads the Remaining Length. It returns that and the length of the
// fixed header.
func (r *Reader) header(b []byte) (length, header int, err error) {
	t := Type(b[0] >> 4)
	for i := 1; i <= 4; i++ {
		if i >= len(b) {
			return 0, 0, ErrMore
		}
		length |= int(b[i]&0x7F) << (7 * (i - 1))
		if b[i]&0x80 != 0 {
			continue
		}
		if i > 1 && b[i] == 0 && r.Version >= mqtt.V5 { // [MQTT-1.5.5-1]
			return 0, 0, &Error{mqtt.MalformedPacket, t, 1, "Remaining Length takes more bytes than it needs", 0}
		}
		header = i + 1
		break
	}
	if header == 0 {
		return 0, 0, &Error{mqtt.MalformedPacket, t, 1, "Remaining Length has more than four bytes", 0}
	}
	if r.MaxBytes > 0 && header+length > r.MaxBytes {
		return 0, 0, &Error{mqtt.PacketTooLarge, t, 1, "packet of " + itoa(header+length) + " bytes: expected at most " + itoa(r.MaxBytes), 0}
	}
	return length, header, nil
}

// checkFirst checks the type and the flags of the first byte before the rest
// has come.
func (r *Reader) checkFirst(first byte) error {
	t, flags := Type(first>>4), first&0x0F
	if t == 0 || t == AUTH && r.Version != mqtt.V5 && r.Version != 0 {
		return &Error{mqtt.MalformedPacket, t, 0, "packet type " + itoa(int(t)) + " is reserved", 0}
	}
	if r.Version == 0 && t != CONNECT {
		return &Error{mqtt.ProtocolError, t, 0, "expected CONNECT as the first packet", 0} // [MQTT-3.1.0-1]
	}
	var want byte
	switch t {
	case PUBLISH:
		if flags&0x06 == 0x06 {
			return &Error{mqtt.MalformedPacket, t, 0, "QoS 3", 0} // [MQTT-3.3.1-4]
		}
		if flags&DupBit != 0 && flags&0x06 == 0 && r.Version > mqtt.V31 {
			return &Error{mqtt.MalformedPacket, t, 0, "DUP flag with QoS 0", 0} // [MQTT-3.3.1-2]
		}
		return nil
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		want = 0x02
		if r.Version == mqtt.V31 {
			flags &^= DupBit // 3.1 lets them be repeated
		}
	}
	if flags != want { // [MQTT-2.1.3-1]
		return &Error{mqtt.MalformedPacket, t, 0, "flags " + itoa(int(flags)) + ": expected " + itoa(int(want)), 0}
	}
	return nil
}

// decode reads the rest of a packet. The body begins header bytes after the
// start of the packet.
func (r *Reader) decode(first byte, body []byte, header int) (Packet, error) {
	c := &cursor{b: body, packet: Type(first >> 4), base: header}
	p := r.read(c, first)
	if c.err == nil && len(c.b) > 0 {
		c.fail(mqtt.MalformedPacket, itoa(len(c.b))+" bytes are left over")
	}
	if c.err != nil {
		return nil, c.err
	}
	return p, nil
}

// read calls the func that knows the packet type.
func (r *Reader) read(c *cursor, first byte) Packet {
	v := r.Version
	switch c.packet {
	case PUBLISH:
		return r.readPublish(c, first)
	case PUBACK:
		id, reason, p := c.ack(v)
		r.puback = Puback{id, reason, p}
		return &r.puback
	case PUBREC:
		id, reason, p := c.ack(v)
		r.pubrec = Pubrec{id, reason, p}
		return &r.pubrec
	case PUBREL:
		id, reason, p := c.ack(v)
		r.pubrel = Pubrel{id, reason, p}
		return &r.pubrel
	case PUBCOMP:
		id, reason, p := c.ack(v)
		r.pubcomp = Pubcomp{id, reason, p}
		return &r.pubcomp
	case PINGREQ:
		return pingreq
	case PINGRESP:
		return pingresp
	case CONNECT:
		return r.readConnect(c)
	case CONNACK:
		return c.connack(v)
	case SUBSCRIBE:
		return c.subscribe(v)
	case SUBACK:
		return c.suback(v)
	case UNSUBSCRIBE:
		return c.unsubscribe(v)
	case UNSUBACK:
		return c.unsuback(v)
	case DISCONNECT:
		return c.disconnect(v)
	}
	return c.auth()
}

var (
	pingreq  = &Pingreq{}
	pingresp = &Pingresp{}
)
