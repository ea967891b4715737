package pebble

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"fairlead/store"
)

// A segment file is a head of two equal blocks and then frames. Everything begins
// at a block, so that a block that holds an acknowledged record is never written
// again: a power cut in the middle of a write can't harm what was written before,
// and the device, which writes whole blocks anyway, writes no more.
//
//	block 0   head: magic, version, flags, first place, salt, CRC
//	block 1   head again, should block 0 go bad
//	block 2…  frame: frame head (24 bytes), data, zeros up to the next block
//
// The salt is random and new whenever a file is put to use. Every CRC begins with
// it, so that what an earlier use of a recycled file has left, or what a client has
// put into a payload, is never taken for a frame.
const (
	block        = 4096
	headSize     = 2 * block
	frameHead    = 24
	recordMax    = 64 << 20 // bytes; beyond it an Append is refused
	headVersion  = 1
	flagUnsynced = 1 << 0 // written with Durability OS
)

var magic = [8]byte{'f', 'l', 'J', 'r', 'n', 'l', '\r', '\n'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segmentHead is what stands in the first blocks of a segment.
type segmentHead struct {
	first store.Pos // of the first record
	salt  uint64
	seed  uint32 // the CRC of salt, with which each CRC of a frame's head begins
	flags uint32
}

func newSegmentHead(first store.Pos, d Durability) segmentHead {
	h := segmentHead{first: first}
	if d == OS {
		h.flags |= flagUnsynced
	}
	var salt [8]byte
	rand.Read(salt[:])
	h.salt = binary.LittleEndian.Uint64(salt[:])
	h.seed = crc32.Checksum(salt[:], castagnoli)
	return h
}

func (h segmentHead) unsynced() bool { return h.flags&flagUnsynced != 0 }

const headBytes = 40

// encode returns both blocks.
func (h segmentHead) encode() []byte {
	b := make([]byte, headSize)
	copy(b, magic[:])
	binary.LittleEndian.PutUint32(b[8:], headVersion)
	binary.LittleEndian.PutUint32(b[12:], h.flags)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.first))
	binary.LittleEndian.PutUint64(b[24:], h.salt)
	binary.LittleEndian.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
	copy(b[block:], b[:block])
	return b
}

var errBadHead = errors.New("neither copy of the segment's head is readable")

// decodeHead takes whichever copy is good.
func decodeHead(b []byte) (segmentHead, error) {
	for _, at := range []int{0, block} {
		if len(b) < at+headBytes {
			break
		}
		c := b[at : at+headBytes]
		if [8]byte(c) != magic || binary.LittleEndian.Uint32(c[32:]) != crc32.Checksum(c[:32], castagnoli) {
			continue
		}
		if v := binary.LittleEndian.Uint32(c[8:]); v > headVersion {
			return segmentHead{}, fmt.Errorf("segment version %d, expected at most %d: %w", v, headVersion, store.ErrNewerFormat)
		}
		return segmentHead{
			flags: binary.LittleEndian.Uint32(c[12:]),
			first: store.Pos(binary.LittleEndian.Uint64(c[16:])),
			salt:  binary.LittleEndian.Uint64(c[24:]),
			seed:  crc32.Checksum(c[24:32], castagnoli),
		}, nil
	}
	return segmentHead{}, errBadHead
}

// A frame is a record, or a seal: it stands where the next record will, says that
// the record before it has become durable, and is written without waiting. So a
// last record that is unreadable though it was durable is mostly told from one
// that was being written when the power went.
type frame struct {
	pos  store.Pos
	n    uint32 // length of the data
	sum  uint32 // CRC of the data
	kind uint32
}

const (
	kindRecord = 1
	kindSeal   = 2
)

// frameSize is what a frame with n bytes of data takes in the file.
func frameSize(n int) int64 {
	return (int64(n) + frameHead + block - 1) / block * block
}

func (f frame) put(b []byte, seed uint32) {
	binary.LittleEndian.PutUint32(b[4:], f.n)
	binary.LittleEndian.PutUint64(b[8:], uint64(f.pos))
	binary.LittleEndian.PutUint32(b[16:], f.sum)
	binary.LittleEndian.PutUint32(b[20:], f.kind)
	binary.LittleEndian.PutUint32(b, headSum(b, seed))
}

// parseFrame reads a frame's head; false: there is none of this segment.
func parseFrame(b []byte, seed uint32) (frame, bool) {
	if len(b) < frameHead || binary.LittleEndian.Uint32(b) != headSum(b, seed) {
		return frame{}, false
	}
	f := frame{
		n:    binary.LittleEndian.Uint32(b[4:]),
		pos:  store.Pos(binary.LittleEndian.Uint64(b[8:])),
		sum:  binary.LittleEndian.Uint32(b[16:]),
		kind: binary.LittleEndian.Uint32(b[20:]),
	}
	if f.kind != kindRecord && f.kind != kindSeal || f.n > recordMax {
		return frame{}, false
	}
	return f, true
}

// headSum is the CRC of the salt and the rest of a frame's head.
func headSum(b []byte, seed uint32) uint32 {
	return crc32.Update(seed, castagnoli, b[4:frameHead])
}
