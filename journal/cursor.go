package journal

import (
	"fmt"
	"math"
	"time"
)

// cursor walks through a record or value. After the first error it reads zeros;
// who reads to the end looks at err once.
type cursor struct {
	b       []byte // all of it, so that at is the place that an Error names
	at      int
	version byte // of the form
	err     *Error
}

// failAt notes the first error.
func (c *cursor) failAt(at int, format string, args ...any) {
	if c.err == nil {
		c.err = &Error{What: fmt.Sprintf(format, args...), At: at}
	}
	c.b = c.b[:min(c.at, len(c.b))] // nothing is left to read
}

// result is err as an interface that is nil when there is none.
func (c *cursor) result() error {
	if c.err != nil {
		return c.err
	}
	return nil
}

// end is result, once everything must have been read.
func (c *cursor) end() error {
	if n := c.left(); n > 0 && c.err == nil {
		c.failAt(c.at, "%d bytes too many: expected the end", n)
	}
	return c.result()
}

// left is how many bytes have not been read: none after an error.
func (c *cursor) left() int { return len(c.b) - c.at }

func (c *cursor) byte(what string) byte {
	if c.at >= len(c.b) {
		c.failAt(c.at, "%s: found the end", what)
		return 0
	}
	c.at++
	return c.b[c.at-1]
}

// flags reads a byte in which only the bits of known may be set.
func (c *cursor) flags(what string, known byte) byte {
	f := c.byte(what)
	if f&^known != 0 {
		c.failAt(c.at-1, "%s %#02x: expected bits of %#02x only", what, f, known)
		return 0
	}
	return f
}

// number reads an unsigned LEB128 of up to 64 bits, in no more bytes than it
// needs: a value has one form only.
func (c *cursor) number(what string) uint64 {
	if c.at < len(c.b) && c.b[c.at] < 0x80 {
		c.at++
		return uint64(c.b[c.at-1])
	}
	return c.longNumber(what)
}

func (c *cursor) longNumber(what string) uint64 {
	var n uint64
	for i, b := range c.b[c.at:min(c.at+10, len(c.b))] {
		n |= uint64(b&0x7F) << (7 * i)
		if b >= 0x80 {
			continue
		}
		if b == 0 {
			c.failAt(c.at, "%s: a number that takes more bytes than it needs", what)
			return 0
		}
		if i == 9 && b > 1 {
			break // more than 64 bits
		}
		c.at += i + 1
		return n
	}
	if c.left() < 10 {
		c.failAt(c.at, "%s: found the end within a number", what)
	} else {
		c.failAt(c.at, "%s: a number of more than 64 bits", what)
	}
	return 0
}

// between reads a number that is at least least and at most most.
func (c *cursor) between(what string, least, most uint64) uint64 {
	at := c.at
	n := c.number(what)
	if n < least || n > most {
		c.failAt(at, "%s %d: expected %d to %d", what, n, least, most)
		return 0
	}
	return n
}

func (c *cursor) uint32(what string) uint32 { return uint32(c.between(what, 0, math.MaxUint32)) }

// difference reads what [appendDifference] appends to a base.
func (c *cursor) difference(what string, base uint64) uint64 {
	z := c.number(what)
	return base + (z>>1 ^ -(z & 1))
}

func (c *cursor) time(what string) time.Time {
	return fromNano(int64(c.difference(what, 0)))
}

// count reads how many elements follow, each of at least size bytes, and so
// never more than the input has room for.
func (c *cursor) count(what string, size int) int {
	at := c.at
	n := c.number(what)
	if n > uint64(c.left()/size) {
		c.failAt(at, "%d %s: expected no more than %d bytes can hold", n, what, c.left())
		return 0
	}
	return int(n)
}

// bytes reads a length and as many bytes, which stay in the input. None is nil.
func (c *cursor) bytes(what string) []byte {
	at := c.at
	n := c.number(what)
	if n > uint64(c.left()) {
		c.failAt(at, "%s of %d bytes: found %d", what, n, c.left())
		return nil
	}
	if n == 0 {
		return nil
	}
	b := c.b[c.at : c.at+int(n) : c.at+int(n)]
	c.at += int(n)
	return b
}
