package pebble

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"fairlead/store"
)

// window reads a file through a buffer. Frames are read from it block by block,
// and most are smaller than a buffer.
type window struct {
	r    io.ReaderAt
	size int64
	buf  []byte
	off  int64 // of buf in the file
	n    int   // valid bytes in buf
}

const windowSize = 256 << 10

func newWindow(r io.ReaderAt, size int64) *window {
	return &window{r: r, size: size, buf: make([]byte, windowSize)}
}

// at returns the bytes from off on, at least one and at most n of them, and
// nothing at the end of the file. They are valid until the next call.
func (w *window) at(off int64, n int) ([]byte, error) {
	if off >= w.size {
		return nil, nil
	}
	if off < w.off || off+int64(n) > w.off+int64(w.n) {
		want := min(int64(len(w.buf)), w.size-off)
		got, err := w.r.ReadAt(w.buf[:want], off)
		if err != nil && !errors.Is(err, io.EOF) {
			w.n = 0
			return nil, err
		}
		w.off, w.n = off, got
	}
	b := w.buf[off-w.off : w.n]
	return b[:min(n, len(b))], nil
}

// sum is the CRC of n bytes of data; false if the file ends before.
func (w *window) sum(off int64, n int) (uint32, bool, error) {
	var sum uint32
	for n > 0 {
		b, err := w.at(off, min(n, len(w.buf)))
		if err != nil {
			return 0, false, err
		}
		if len(b) == 0 {
			return 0, false, nil
		}
		sum = crc32.Update(sum, castagnoli, b)
		off += int64(len(b))
		n -= len(b)
	}
	return sum, true, nil
}

// scanned is what a segment holds.
type scanned struct {
	next   store.Pos // after the last good record
	bytes  int64     // of data in good records
	last   int64     // offset of the last good record; 0: there is none
	end    int64     // offset behind it
	sealed bool      // the last good record is known to have become durable
	torn   int64     // bytes of an unfinished record behind end
	// bad says why the record next, at the offset end, is unreadable, though it or
	// a later one was durable once. later is a later place that is proof of it.
	bad   string
	later store.Pos
}

// scan reads a segment up to the place until, which begins the segment after it;
// 0: it is the last one. What stands behind until is what a failed Append has
// left, and the Append that took its place went to the next segment.
//
// In the last segment a record that is unreadable is torn if nothing valid
// follows it: at most one record is under way at a time, and after a failure the
// journal goes on in another segment. If anything valid follows, whatever it is,
// the record was durable before that was written, and is damaged.
func scan(r io.ReaderAt, size int64, h segmentHead, until store.Pos) (scanned, error) {
	w := newWindow(r, size)
	s := scanned{next: h.first, end: headSize}
	for until == 0 || s.next < until {
		f, what, err := readFrame(w, h, s.end)
		if err != nil {
			return s, err
		}
		if what == "" && f.kind == kindRecord && f.pos == s.next {
			s.last = s.end
			s.end += frameSize(int(f.n))
			s.bytes += int64(f.n)
			s.next++
			continue
		}
		s.bad = what
		if what == "" && f.kind == kindSeal && f.pos+1 == s.next {
			s.sealed = s.last != 0
		}
		if what == "" && (f.kind == kindRecord || f.pos+1 != s.next) {
			s.bad = fmt.Sprintf("it has the number %d", f.pos)
			s.later = f.pos
		}
		break
	}
	if until != 0 {
		if s.next < until && s.bad == "" {
			s.bad = "the segment ends before it"
		}
		return s, nil
	}
	return s.judge(w, h)
}

// judge tells a torn end from damage, in the last segment.
func (s scanned) judge(w *window, h segmentHead) (scanned, error) {
	later, err := findLater(w, h, s)
	if err != nil {
		return s, err
	}
	s.later = max(s.later, later)
	if s.later != 0 {
		if s.bad == "" {
			s.bad = "nothing stands there"
		}
		return s, nil
	}
	if s.bad != "" && s.bad != badHead {
		s.torn = s.tornBytes(w, h)
	}
	s.bad = ""
	return s, nil
}

// tornBytes is how much of an unfinished record can be there.
func (s scanned) tornBytes(w *window, h segmentHead) int64 {
	b, err := w.at(s.end, frameHead)
	if f, ok := parseFrame(b, h.seed); err == nil && ok {
		return min(frameHead+int64(f.n), w.size-s.end)
	}
	return 0
}

// badHead is also what zeros and an earlier use of the file look like.
const badHead = "its head is unreadable"

// readFrame reads the frame at off and checks its data; what says why there is
// none.
func readFrame(w *window, h segmentHead, off int64) (f frame, what string, err error) {
	b, err := w.at(off, frameHead)
	if err != nil {
		return frame{}, "", err
	}
	f, ok := parseFrame(b, h.seed)
	if !ok {
		return frame{}, badHead, nil
	}
	sum, ok, err := w.sum(off+frameHead, int(f.n))
	if err != nil {
		return frame{}, "", err
	}
	if !ok {
		return f, fmt.Sprintf("the file ends within its %d bytes", f.n), nil
	}
	if sum != f.sum {
		return f, fmt.Sprintf("the checksum of its %d bytes is %08x, expected %08x", f.n, sum, f.sum), nil
	}
	return f, "", nil
}

// findLater looks for a frame behind the end which proves that the record next
// was durable once: a later record, or a seal of it. The data of frames isn't
// looked at: a head can only be there if the frame was written.
func findLater(w *window, h segmentHead, s scanned) (store.Pos, error) {
	var found store.Pos
	for off := s.end; off < w.size; off += block {
		b, err := w.at(off, frameHead)
		if err != nil {
			return 0, err
		}
		f, ok := parseFrame(b, h.seed)
		if ok && (f.pos > s.next || f.pos == s.next && f.kind == kindSeal) {
			found = max(found, f.pos)
		}
	}
	return found, nil
}
