package packet

import (
	"errors"
	"io"
	"math/bits"
	"sync"
)

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

// buffer is what the pools hold.
type buffer struct{ b []byte }

// The sizes of read buffers, in bytes. Most connections say little, some say
// much: the first read gets a small one, and a stream that fills it a large one.
// Only a packet that is longer yet makes a buffer grow beyond, step by step.
const (
	smallBuffer  = 4 << 10
	largeBuffer  = 64 << 10
	pooledBuffer = 1 << 20 // what is larger is left to the garbage collector
)

// pools hold free buffers, by how often smallBuffer was doubled.
var pools [9]sync.Pool // smallBuffer<<8 == pooledBuffer

// takeBuffer returns a buffer of that many bytes: smallBuffer times a power of
// two, or anything above pooledBuffer.
func takeBuffer(size int) *buffer {
	if size <= pooledBuffer {
		if b, ok := poolOf(size).Get().(*buffer); ok {
			return b
		}
	}
	return &buffer{make([]byte, size)}
}

func giveBuffer(b *buffer) {
	if len(b.b) <= pooledBuffer {
		poolOf(len(b.b)).Put(b)
	}
}

func poolOf(size int) *sync.Pool { return &pools[bits.Len(uint(size/smallBuffer))-1] }

// errUnread says that Fill was called although whole packets wait.
var errUnread = errors.New("packet: the buffer is full of packets that Next has not been asked for")

// Fill reads once from src into the buffer, and returns what the read has
// returned. If src is a [LentReader], the Reader holds no buffer while src waits.
//
// The buffer grows only once it is full, and only for a packet that needs it, so
// that a peer pays for each byte that it makes the Reader hold: at most twice
// what has arrived of one packet, and that is at most MaxBytes. It is an error to
// go on filling without asking Next for the packets.
func (r *Reader) Fill(src io.Reader) (int, error) {
	if held := r.Buffered(); held >= largeBuffer && held == len(r.buf.b) && r.need <= held {
		return 0, errUnread
	}
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

// Lend implements [Lender]: it takes a buffer if there is none, and makes room
// in it if it is full.
func (r *Reader) Lend() []byte {
	r.makeRoom()
	return r.buf.b[r.w:]
}

// Return implements [Lender]: nothing was read. An empty buffer goes back to its
// pool.
func (r *Reader) Return() { r.Release() }

// Filled says that n bytes now stand in what Lend has returned. Fill does it by
// itself.
func (r *Reader) Filled(n int) {
	r.w += n
	r.busy = r.w == len(r.buf.b)
}

// Buffered is the number of bytes that are not consumed yet.
func (r *Reader) Buffered() int { return r.w - r.r }

// subIDsKept is how many Subscription Identifiers there is room for between two
// packets. What one packet took beyond is not kept.
const subIDsKept = 32

// Release gives the buffer back if it is empty; otherwise it does nothing. It
// ends the life of the packets that Next has returned.
func (r *Reader) Release() {
	if r.buf == nil || r.r < r.w {
		return
	}
	giveBuffer(r.buf)
	r.buf, r.r, r.w = nil, 0, 0
	r.publish = Publish{} // points into the buffer
	if cap(r.subIDs) > subIDsKept {
		r.subIDs = nil
	}
}

// makeRoom sees to it that there is a buffer with free bytes.
func (r *Reader) makeRoom() {
	size := r.size()
	if r.buf == nil {
		r.buf = takeBuffer(size)
		return
	}
	held := r.buf.b[r.r:r.w]
	old := r.buf
	switch {
	case size != len(old.b):
		r.buf = takeBuffer(size)
		copy(r.buf.b, held)
		giveBuffer(old)
	case len(held) <= r.r || r.w == len(old.b):
		// Moves no more than what was consumed, unless there is no other way.
		copy(old.b, held)
	default:
		return
	}
	r.r, r.w = 0, len(held)
}

// size is how large the buffer should be for the next read.
func (r *Reader) size() int {
	size := smallBuffer
	if r.busy {
		size = largeBuffer
	}
	if r.buf == nil {
		return size
	}
	have, held := len(r.buf.b), r.Buffered()
	switch {
	case held == have: // one packet fills it all
		size = max(size, 2*have)
		if size > pooledBuffer && r.need > held {
			size = max(pooledBuffer, min(size, r.need))
		}
	case held > 0 || have <= largeBuffer:
		size = max(size, have)
	}
	return size
}
