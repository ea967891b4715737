package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A frame is what every record and value begins with, in all versions for ever:
// the CRC32C of all that follows it, a letter for what it is, and the version of
// its format. So damage to the version is damage, and never looks like a newer
// program's work.
const frameSize = 4 + 1 + 1

// A form is one of the things that have a frame. Whoever changes what is written
// raises the version and keeps the reader of the one before: see
// docs/design/journal.md, "How the format may change".
type form struct {
	name    string
	letter  byte
	version byte // the one that is written, and the newest that is read
}

var (
	recordForm   = form{"record", 'J', 2}
	sessionForm  = form{"session", 'S', 2}
	chunkForm    = form{"chunk", 'Q', 1}
	retainedForm = form{"retained message", 'R', 1}
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// reserve appends room for a frame, and for more bytes after it.
func reserve(dst []byte, size int) []byte {
	var none [HeaderSize]byte
	return append(dst, none[:size]...)
}

// seal fills in the frame at the start of b, whose other bytes are written.
func (f *form) seal(b []byte) {
	b[4], b[5] = f.letter, f.version
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
}

// open checks the frame of b and returns a cursor behind it. The first byte of
// size must be there.
func (f *form) open(b []byte, size int) (cursor, error) {
	if len(b) < frameSize {
		return cursor{}, f.wrong(len(b), "found %d bytes: expected at least %d", len(b), size)
	}
	want := binary.BigEndian.Uint32(b)
	if found := crc32.Checksum(b[4:], castagnoli); found != want {
		return cursor{}, f.wrong(0, "damaged or cut off: its %d bytes have the CRC32C %08x, expected %08x", len(b)-4, found, want)
	}
	if b[4] != f.letter {
		return cursor{}, f.wrong(4, "found the letter %q: expected %q", b[4], f.letter)
	}
	switch version := b[5]; {
	case version == 0:
		return cursor{}, f.wrong(5, "version 0: expected 1 to %d", f.version)
	case version > f.version:
		return cursor{}, fmt.Errorf("%s of version %d, known up to %d: %w", f.name, version, f.version, ErrNewer)
	}
	if len(b) < size {
		return cursor{}, f.wrong(len(b), "found %d bytes: expected at least %d", len(b), size)
	}
	return cursor{b: b, at: frameSize, version: b[5]}, nil
}

func (f *form) wrong(at int, format string, args ...any) *Error {
	return &Error{What: f.name + ": " + fmt.Sprintf(format, args...), At: at}
}
