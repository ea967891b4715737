package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"

	"fairlead/store"
)

const (
	magic   = "fairlead backup\n"
	version = 2

	blockHead = 4 + 1 + 4 // length, kind, checksum
	// blockBytes is how large a block becomes, but for one with a single large value.
	blockBytes = 256 << 10
	// blockMax is the largest block: the largest value with its key.
	blockMax = 1<<30 + 1<<20
	// headMax is the largest block of the kind head.
	headMax = 64 << 10
)

// The kinds of blocks, in the order in which they stand in a file.
const (
	kindHead    = 'H' // JSON: Head
	kindKeys    = 'K' // keys with their values
	kindRecords = 'R' // records of the journal
	kindFile    = 'F' // since version 2: name, flags, and a piece of the content of a file
	kindEnd     = 'E' // u64 keys, u64 records, since version 2 u64 files, SHA-256 of all before this block

	order = "HKRFE"
)

// The flags of a file.
const (
	flagSecret  = 1 << iota // whoever has it can pass for somebody else
	flagLeftOut             // it was there, and its content is not in the backup
	flagMore                // the next block has more of it
	flagsKnown  = flagSecret | flagLeftOut | flagMore
)

const (
	// nameMax is the longest name of a file in bytes.
	nameMax = 255
	// secretFilesMax is how many files may be secret.
	secretFilesMax = 1000
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writer packs keys and records into blocks.
type writer struct {
	to       io.Writer
	sum      Summary
	progress Progress
	digest   hash.Hash
	kind     byte // of what is in block
	block    []byte
}

func newWriter(to io.Writer, head Head, progress Progress) *writer {
	return &writer{to: to, sum: Summary{Head: head}, progress: progress, digest: sha256.New()}
}

func (b *writer) key(key string, value []byte) error {
	b.sum.Keys++
	return b.add(kindKeys, []byte(key), value)
}

func (b *writer) record(data []byte) error {
	b.sum.Records++
	return b.add(kindRecords, data)
}

// add adds parts that belong together to the block of that kind.
func (b *writer) add(kind byte, parts ...[]byte) error {
	if kind != b.kind || len(b.block) >= blockBytes {
		if err := b.flush(); err != nil {
			return err
		}
		b.kind = kind
	}
	for _, p := range parts {
		b.block = append(binary.AppendUvarint(b.block, uint64(len(p))), p...)
	}
	return nil
}

// flush writes what is in the block.
func (b *writer) flush() error {
	if err := b.begin(); err != nil || len(b.block) == 0 {
		return err
	}
	err := b.put(b.kind, b.block)
	b.block = b.block[:0]
	if cap(b.block) > 4*blockBytes {
		b.block = nil
	}
	return err
}

// begin writes what stands before all keys, once.
func (b *writer) begin() error {
	if b.sum.Bytes > 0 {
		return nil
	}
	if err := b.write(binary.BigEndian.AppendUint32([]byte(magic), version)); err != nil {
		return err
	}
	head, err := json.Marshal(b.sum.Head)
	if err != nil {
		return err
	}
	return b.put(kindHead, head)
}

func (b *writer) end() error {
	if err := b.flush(); err != nil {
		return err
	}
	var body []byte
	for _, n := range []uint64{b.sum.Keys, b.sum.Records, b.sum.Files} {
		body = binary.BigEndian.AppendUint64(body, n)
	}
	return b.put(kindEnd, b.digest.Sum(body))
}

func (b *writer) put(kind byte, body []byte) error {
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), kind)
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, body)
	if err := b.write(binary.BigEndian.AppendUint32(head, sum)); err != nil {
		return err
	}
	if err := b.write(body); err != nil {
		return err
	}
	if b.progress != nil {
		b.progress(b.sum)
	}
	return nil
}

func (b *writer) write(p []byte) error {
	b.digest.Write(p)
	b.sum.Bytes += int64(len(p))
	_, err := b.to.Write(p)
	return err
}

// visitor is told what a backup holds, block by block. A nil func is not told.
type visitor struct {
	keys   func([]store.Op) error // in the order of the keys
	record func(data []byte) error
	create func(name string, secret bool) (io.WriteCloser, error) // in the order of the names
}

// read reads a whole file. What the visitor was told is worth something only if read
// returns no error.
func read(from io.Reader, v visitor, progress Progress) (Summary, error) {
	r := &reader{from: bufio.NewReaderSize(from, 64<<10), digest: sha256.New(), visitor: v}
	err := errors.Join(r.all(progress), r.abandon())
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the file ends after %d bytes, before its end has come: %w", r.sum.Bytes, store.ErrDamaged)
	}
	return r.sum, err
}

type reader struct {
	visitor
	from    io.Reader
	version uint32
	sum     Summary
	digest  hash.Hash
	last    string         // the key before
	file    piece          // the file before: its name, and the flags that a further piece of it has
	out     io.WriteCloser // where the rest of that file goes; nil: it is complete
}

func (r *reader) all(progress Progress) error {
	if err := r.magic(); err != nil {
		return err
	}
	if err := r.head(); err != nil {
		return err
	}
	for before := byte(kindHead); ; {
		digest := r.digest.Sum(nil)
		kind, body, err := r.block(blockMax)
		if err != nil {
			return err
		}
		if at := strings.IndexByte(order, kind); at < max(1, strings.IndexByte(order, before)) || kind == kindFile && r.version < 2 {
			return r.damaged("a block %q after %q", kind, before)
		}
		switch kind {
		case kindKeys:
			err = r.keyBlock(body)
		case kindRecords:
			err = r.recordBlock(body)
		case kindFile:
			err = r.fileBlock(body)
		case kindEnd:
			return r.end(body, digest)
		}
		if err != nil {
			return err
		}
		if before = kind; progress != nil {
			progress(r.sum)
		}
	}
}

func (r *reader) magic() error {
	b := make([]byte, len(magic)+4)
	n, err := io.ReadFull(r.from, b)
	if !bytes.HasPrefix([]byte(magic), b[:min(n, len(magic))]) {
		return errors.New("it is no backup of fairlead: it begins otherwise")
	}
	if err != nil {
		return err
	}
	if r.version = binary.BigEndian.Uint32(b[len(magic):]); r.version > version || r.version == 0 {
		return fmt.Errorf("it has version %d, and this program knows up to %d: %w", r.version, version, store.ErrNewerFormat)
	}
	r.took(b)
	return nil
}

func (r *reader) head() error {
	kind, body, err := r.block(headMax)
	if err != nil {
		return err
	}
	if kind != kindHead {
		return r.damaged("a block %q, expected %q", kind, kindHead)
	}
	if err := json.Unmarshal(body, &r.sum.Head); err != nil {
		return r.damaged("its head is not readable: %v", err)
	}
	if r.version < 2 {
		r.sum.Secrets = "" // of that version nothing secret was known
		return nil
	}
	if _, err := ParseSecrets(string(r.sum.Secrets)); err != nil {
		return r.damaged("its head: %v", err)
	}
	return nil
}

// took counts what has been read.
func (r *reader) took(b []byte) {
	r.digest.Write(b)
	r.sum.Bytes += int64(len(b))
}

// block reads a block. Its length is believed only as far as there are bytes.
func (r *reader) block(most uint32) (kind byte, body []byte, err error) {
	var head [blockHead]byte
	if _, err := io.ReadFull(r.from, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > most {
		return 0, nil, r.damaged("a block of %d bytes, expected at most %d", n, most)
	}
	buf := bytes.NewBuffer(make([]byte, 0, min(n, 2*blockBytes)))
	if _, err := io.CopyN(buf, r.from, int64(n)); err != nil {
		return 0, nil, err
	}
	sum := crc32.Update(crc32.Checksum(head[:5], castagnoli), castagnoli, buf.Bytes())
	if want := binary.BigEndian.Uint32(head[5:]); sum != want {
		return 0, nil, r.damaged("a block of %d bytes has checksum %08x, expected %08x", n, sum, want)
	}
	r.took(head[:])
	r.took(buf.Bytes())
	return head[4], buf.Bytes(), nil
}

func (r *reader) damaged(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s: %w", r.sum.Bytes, fmt.Sprintf(format, args...), store.ErrDamaged)
}

// part takes the next part of a block's body.
func (r *reader) part(body []byte) (part, rest []byte, err error) {
	n, size := binary.Uvarint(body)
	if size <= 0 || n > uint64(len(body)-size) {
		return nil, nil, r.damaged("a part of a block is longer than the block")
	}
	end := size + int(n)
	return body[size:end:end], body[end:], nil
}

func (r *reader) keyBlock(body []byte) error {
	var ops []store.Op
	for len(body) > 0 {
		key, rest, err := r.part(body)
		if err != nil {
			return err
		}
		value, rest, err := r.part(rest)
		if err != nil {
			return err
		}
		if string(key) <= r.last {
			return r.damaged("key %q after key %q", key, r.last)
		}
		r.last = string(key)
		ops = append(ops, store.Op{Key: r.last, Value: value})
		body = rest
	}
	r.sum.Keys += uint64(len(ops))
	if r.keys == nil {
		return nil
	}
	return r.keys(ops)
}

func (r *reader) recordBlock(body []byte) error {
	for len(body) > 0 {
		data, rest, err := r.part(body)
		if err != nil {
			return err
		}
		if r.sum.Records++; r.record != nil {
			if err := r.record(data); err != nil {
				return err
			}
		}
		body = rest
	}
	return nil
}

// end compares what was read with what the last block says, and demands that nothing
// follows.
func (r *reader) end(body, digest []byte) error {
	if err := r.totals(body, digest); err != nil {
		return err
	}
	switch n, err := io.ReadFull(r.from, make([]byte, 1)); {
	case n > 0:
		return r.damaged("something follows its end")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("at byte %d: %w", r.sum.Bytes, err)
	}
	return nil
}

func (r *reader) totals(body, digest []byte) error {
	if r.out != nil {
		return r.damaged("the file %q is not complete", r.file.name)
	}
	found := []uint64{r.sum.Keys, r.sum.Records, r.sum.Files}
	if r.version < 2 {
		found = found[:2]
	}
	if want := 8*len(found) + sha256.Size; len(body) != want {
		return r.damaged("its end has %d bytes, expected %d", len(body), want)
	}
	for i, what := range []string{"keys", "records", "files"}[:len(found)] {
		if want := binary.BigEndian.Uint64(body[8*i:]); found[i] != want {
			return r.damaged("%d %s, expected %d", found[i], what, want)
		}
	}
	if want := body[8*len(found):]; !bytes.Equal(want, digest) {
		return r.damaged("its SHA-256 is %x, expected %x", digest, want)
	}
	return nil
}
