package pebble

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

const (
	// segmentDefault is how large a segment becomes. Trimming gives back whole
	// segments only, so a journal that is trimmed every two seconds takes two or
	// three of them.
	segmentDefault = 64 << 20
	// fillAhead is how far a new segment is filled with zeros ahead of the
	// records. An fdatasync of blocks that are there already needs no commit of the
	// file system's own journal: 8-10 thousand a second, else 5-7 thousand (ext4;
	// fallocate gains nothing, since its blocks must be marked as written). A
	// recycled segment has all its blocks.
	fillAhead = 1 << 20
	sparesMax = 2 // segments kept to be used again; they are also what a full disk gets first
	bufferMax = 1 << 20
)

// Own is the name of the only journal.
const Own store.JournalID = "local"

// segment is a file of records [first, next of the journal or first of the
// segment after it).
type segment struct {
	first store.Pos
	head  segmentHead
	size  int64 // on disk, about
	bytes int64 // of data in its records
}

// journal is the segment log. Its files are described in frame.go.
type journal struct {
	fs         vfs.FS
	dir        string
	durability Durability
	segmentMax int64
	logger     *slog.Logger
	space      func(n int64) error // says why there is no room for n bytes

	// turn has one token: who has taken it appends, or closes. It is a channel and
	// no mutex so that a caller whose context ends need not wait for a slow disk.
	turn chan struct{}
	// Below is what the holder of turn owns.
	file   vfs.File // nil: the next Append opens a new segment
	off    int64    // where the next frame goes
	filled int64    // up to here the file has blocks
	buf    []byte
	zeros  []byte
	gen    uint64 // numbers temporary names

	trimming sync.Mutex // held while files are removed or recycled; guards unsynced
	unsynced bool       // a file has been removed, and that may not be durable yet

	mu       sync.Mutex // guards all below; no I/O is done under it
	segments []segment
	spares   []string
	next     store.Pos
	closed   bool
	err      error         // of the last Append, nil if it succeeded
	changed  chan struct{} // closed at the next change, if anybody waits
	waiting  int
	appends  uint64
	appended uint64
	latency  store.Histogram

	written atomic.Uint64 // bytes
}

// openJournal reads the whole journal and makes it ready to go on.
func openJournal(ctx context.Context, j *journal) (*survey, error) {
	s, err := surveyJournal(ctx, j.fs, j.dir, nil)
	if err != nil {
		return nil, err
	}
	if s.damage != nil {
		return s, s.damage
	}
	for _, name := range s.temps {
		if err := j.fs.Remove(j.path(name)); err != nil {
			return nil, fmt.Errorf("remove what the last run has left: %w", err)
		}
	}
	j.turn = make(chan struct{}, 1)
	j.next = s.next()
	j.spares = s.spares
	for _, seg := range s.segments {
		j.segments = append(j.segments, segment{first: seg.first(), head: seg.head, size: seg.size, bytes: seg.bytes})
	}
	if len(s.segments) == 0 {
		return s, nil
	}
	last := s.segments[len(s.segments)-1]
	if err := j.resume(last, s.cut != nil); err != nil {
		return nil, fmt.Errorf("make the end of %s durable: %w", relative(last.name), err)
	}
	return s, nil
}

// resume makes sure that the last record is on disk, and goes on behind it if
// nothing unfinished lies there.
//
// A record without a seal may be one whose fsync failed: then it stands in the
// page cache, is marked clean, and neither reading it nor another fsync tells that
// the disk hasn't got it. So it is written once more, in place.
func (j *journal) resume(last surveyed, cut bool) error {
	f, err := j.fs.OpenReadWrite(j.path(last.name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if !last.sealed && last.last != 0 {
		if err := j.rewrite(f, last.last, last.end); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := f.SyncData(); err != nil {
		return errors.Join(err, f.Close())
	}
	j.file, j.off, j.filled = f, last.end, last.size
	if last.torn > 0 || cut || last.head.unsynced() != (j.durability == OS) {
		j.abandon()
		return nil
	}
	if !last.sealed {
		j.seal()
	}
	return nil
}

// rewrite writes the bytes of a file once more.
func (j *journal) rewrite(f vfs.File, from, to int64) error {
	b := make([]byte, min(bufferMax, to-from))
	for from < to {
		n := min(int64(len(b)), to-from)
		clear(b[:n]) // a cut may have taken zeros behind the last record's data
		if _, err := f.ReadAt(b[:n], from); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := j.write(f, b[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}

func (j *journal) path(name string) string { return j.fs.PathJoin(j.dir, name) }

// abandon ends the use of a segment's file. It is not synced: all its records are,
// and what else may stand there doesn't count.
func (j *journal) abandon() {
	if j.file != nil {
		// An error could only concern what was abandoned.
		j.file.Close()
		j.file = nil
	}
}

// begin takes the turn.
func (j *journal) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case j.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := j.check(); err != nil {
		j.end()
		return err
	}
	return nil
}

func (j *journal) end() { <-j.turn }

func (j *journal) check() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return store.ErrClosed
	}
	return nil
}

// Append implements [store.Journal]. ctx counts until it is this call's turn; a
// write is not broken off.
func (j *journal) Append(ctx context.Context, rec []byte) (store.Pos, error) {
	if len(rec) > recordMax {
		return 0, fmt.Errorf("append: a record of %d bytes, expected at most %d", len(rec), recordMax)
	}
	if err := j.begin(ctx); err != nil {
		return 0, fmt.Errorf("append: %w", err)
	}
	defer j.end()
	if err := j.room(frameSize(len(rec)) + block); err != nil {
		err = fmt.Errorf("append record %d: %w", j.next, err)
		j.setErr(err)
		return 0, err
	}
	at, err := j.append(rec)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			j.dropSpares()
		}
		// What the failure has left stands at the end of this file, and the page
		// cache can't be trusted after a failed fsync. The record that takes the
		// place begins a new file, and with that whatever is here doesn't count.
		j.abandon()
		err = fmt.Errorf("append record %d: %w", at, err)
		at = 0
	}
	j.setErr(err)
	return at, err
}

// room refuses an Append while the disk has no more than its reserve, even where
// the segment has the blocks already: what is appended makes the KV grow as well.
func (j *journal) room(n int64) error {
	err := j.space(n)
	if err == nil || !j.dropSpares() {
		return err
	}
	return j.space(n)
}

func (j *journal) setErr(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.err = err
}

func (j *journal) append(rec []byte) (store.Pos, error) {
	at := j.next // no other call changes it meanwhile
	need := frameSize(len(rec)) + block
	if j.file != nil && j.off+need > j.segmentMax && j.off > headSize {
		if err := j.finish(); err != nil {
			return at, err
		}
	}
	if j.file == nil {
		if err := j.openSegment(at); err != nil {
			return at, err
		}
	}
	end, err := j.writeFrame(frame{pos: at, n: uint32(len(rec)), kind: kindRecord}, rec)
	if err != nil {
		return at, fmt.Errorf("write: %w", err)
	}
	j.fill(end + block)
	var took time.Duration
	if j.durability == Fsync {
		start := time.Now()
		if err := j.file.SyncData(); err != nil {
			return at, fmt.Errorf("fsync: %w", err)
		}
		took = time.Since(start)
	}
	j.off = end
	j.publish(len(rec), took)
	if j.durability == Fsync {
		j.seal()
	}
	return at, nil
}

// publish makes a durable record visible.
func (j *journal) publish(n int, took time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	last := &j.segments[len(j.segments)-1]
	last.bytes += int64(n)
	last.size = max(last.size, j.filled)
	j.next++
	j.appends++
	j.appended += uint64(n)
	j.latency.Observe(took)
	j.wakeLocked()
}

func (j *journal) wakeLocked() {
	if j.waiting > 0 {
		close(j.changed)
		j.changed, j.waiting = nil, 0
	}
}

// writeFrame writes a frame at j.off and returns where it ends. The data goes
// through a buffer, since the file may change what it is given and rec belongs to
// the caller.
func (j *journal) writeFrame(f frame, data []byte) (int64, error) {
	size := frameSize(len(data))
	if want := int(min(size, bufferMax)); cap(j.buf) < want {
		j.buf = make([]byte, max(want, 64<<10))
	}
	b := j.buf[:min(size, bufferMax)]
	f.sum = crc32.Checksum(data, castagnoli)
	f.put(b, j.segments[len(j.segments)-1].head.seed)
	off, used := j.off, frameHead
	for {
		n := copy(b[used:], data)
		data = data[n:]
		clear(b[used+n:])
		if err := j.write(j.file, b, off); err != nil {
			return 0, err
		}
		off += int64(len(b))
		if off == j.off+size {
			break
		}
		b, used = j.buf[:min(j.off+size-off, bufferMax)], 0
	}
	j.filled = max(j.filled, off)
	return off, nil
}

func (j *journal) write(f vfs.File, b []byte, off int64) error {
	n, err := f.WriteAt(b, off)
	j.written.Add(uint64(n))
	if err == nil && n < len(b) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(b))
	}
	return err
}

// fill writes zeros ahead when the file has no blocks up to the offset to. That
// only makes later Appends faster, so an error isn't one of this Append.
func (j *journal) fill(to int64) {
	if to <= j.filled {
		return
	}
	if j.zeros == nil {
		j.zeros = make([]byte, 64<<10)
	}
	step := min(fillAhead, j.segmentMax/4)
	end := min((to+step-1)/step*step, max(j.segmentMax, to))
	for j.filled < end {
		n := min(int64(len(j.zeros)), end-j.filled)
		clear(j.zeros) // the file may change what it is given
		if err := j.write(j.file, j.zeros[:n], j.filled); err != nil {
			return
		}
		j.filled += n
	}
}

// seal notes that the last record is durable; see frame. It waits for nothing, and
// an error only means that the next Append goes to a new segment.
func (j *journal) seal() {
	if _, err := j.writeFrame(frame{pos: j.next - 1, kind: kindSeal}, nil); err != nil {
		j.abandon()
	}
}

// finish makes all of a segment durable before the next one begins: only the last
// segment may end with something unfinished.
func (j *journal) finish() error {
	if j.durability == OS {
		if err := j.file.SyncData(); err != nil {
			return fmt.Errorf("fsync: %w", err)
		}
	}
	j.abandon()
	return nil
}

// openSegment begins a segment with the record first. The file gets its name when
// its head is durable.
func (j *journal) openSegment(first store.Pos) error {
	head := newSegmentHead(first, j.durability)
	f, temp, err := j.segmentFile()
	if err != nil {
		return fmt.Errorf("new segment: %w", err)
	}
	size, err := j.beginSegment(f, temp, head)
	if err != nil {
		j.fs.Remove(j.path(temp)) // gone already, if the renaming succeeded
		return fmt.Errorf("new segment: %w", errors.Join(err, f.Close()))
	}
	j.file, j.off, j.filled = f, headSize, max(size, headSize)
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.segments); n > 0 && j.segments[n-1].first == first {
		j.segments = j.segments[:n-1] // replaced: it has never held a record
	}
	j.segments = append(j.segments, segment{first: first, head: head, size: j.filled})
	return nil
}

// segmentFile returns a file to become a segment: a spare one, or a new one.
func (j *journal) segmentFile() (vfs.File, string, error) {
	if name := j.takeSpare(); name != "" {
		f, err := j.fs.OpenReadWrite(j.path(name), vfs.WriteCategoryUnspecified)
		return f, name, err
	}
	j.gen++
	temp := fmt.Sprintf("%d%s", j.gen, tempSuffix)
	f, err := j.fs.OpenReadWrite(j.path(temp), vfs.WriteCategoryUnspecified)
	return f, temp, err
}

// beginSegment makes the file a segment and returns its size.
func (j *journal) beginSegment(f vfs.File, temp string, head segmentHead) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := j.write(f, head.encode(), 0); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("fsync: %w", err)
	}
	if err := j.fs.Rename(j.path(temp), j.path(segmentName(head.first))); err != nil {
		return 0, err
	}
	return info.Size(), syncDir(j.fs, j.dir)
}

func (j *journal) takeSpare() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.spares) == 0 {
		return ""
	}
	name := j.spares[len(j.spares)-1]
	j.spares = j.spares[:len(j.spares)-1]
	return name
}

// dropSpares gives space back to a full disk, and says whether there was any.
func (j *journal) dropSpares() (any bool) {
	for name := j.takeSpare(); name != ""; name = j.takeSpare() {
		if err := j.fs.Remove(j.path(name)); err != nil {
			j.logger.Warn("a spare segment stays on a full disk", "file", relative(name), "err", err)
			continue
		}
		any = true
	}
	return any
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("fsync %s: %w", dir, errors.Join(err, d.Close()))
	}
	return d.Close()
}

// Trim implements [store.Journal]: it removes the segments that hold nothing
// later, but never the last one, which knows the next number.
func (j *journal) Trim(ctx context.Context, id store.JournalID, upTo store.Pos) error {
	if err := j.checkCall(ctx, id); err != nil {
		return fmt.Errorf("trim %s up to %d: %w", id, upTo, err)
	}
	j.trimming.Lock()
	defer j.trimming.Unlock()
	for {
		// One by one: if a later segment went before an earlier one, a start would
		// find a gap.
		if err := j.syncTrim(); err != nil {
			return fmt.Errorf("trim %s up to %d: %w", id, upTo, err)
		}
		seg, ok := j.oldest(upTo)
		if !ok {
			return nil
		}
		if err := j.discard(seg); err != nil {
			return fmt.Errorf("trim %s up to %d: %w", id, upTo, err)
		}
	}
}

func (j *journal) syncTrim() error {
	if !j.unsynced {
		return nil
	}
	if err := syncDir(j.fs, j.dir); err != nil {
		return err
	}
	j.unsynced = false
	return nil
}

// oldest takes the oldest segment out of the journal, if all its records are to
// be trimmed.
func (j *journal) oldest(upTo store.Pos) (segment, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || len(j.segments) < 2 || j.segments[1].first-1 > upTo {
		return segment{}, false
	}
	seg := j.segments[0]
	j.segments = j.segments[1:]
	j.wakeLocked() // a Tail that stood there must say so
	return seg, true
}

// discard removes a segment's file or makes it a spare one.
func (j *journal) discard(seg segment) error {
	name := segmentName(seg.first)
	if j.sparesLen() < sparesMax && seg.size <= j.segmentMax && j.space(0) == nil {
		return j.recycle(name, fmt.Sprintf("%d%s", seg.first, spareSuffix), seg)
	}
	if err := j.fs.Remove(j.path(name)); err != nil {
		j.putBack(seg)
		return err
	}
	j.unsynced = true
	return j.syncTrim()
}

// recycle keeps the file to be used again, once the new name is durable: before
// that a crash would find other records under the old one.
func (j *journal) recycle(name, spare string, seg segment) error {
	if err := j.fs.Rename(j.path(name), j.path(spare)); err != nil {
		j.putBack(seg)
		return err
	}
	j.unsynced = true
	if err := j.syncTrim(); err != nil {
		return err // the next start finds the spare
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.spares = append(j.spares, spare)
	return nil
}

func (j *journal) putBack(seg segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segments = append([]segment{seg}, j.segments...)
}

func (j *journal) sparesLen() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.spares)
}

// Span implements [store.Journal].
func (j *journal) Span(ctx context.Context, id store.JournalID) (first, next store.Pos, err error) {
	if err := j.checkCall(ctx, id); err != nil {
		return 0, 0, fmt.Errorf("span of %s: %w", id, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.firstLocked(), j.next, nil
}

func (j *journal) firstLocked() store.Pos {
	if len(j.segments) == 0 {
		return j.next
	}
	return j.segments[0].first
}

// Journals implements [store.Journal].
func (j *journal) Journals(ctx context.Context) ([]store.JournalID, error) {
	if err := j.checkCall(ctx, Own); err != nil {
		return nil, err
	}
	return []store.JournalID{Own}, nil
}

// Own implements [store.Journal].
func (j *journal) Own() store.JournalID { return Own }

func (j *journal) checkCall(ctx context.Context, id store.JournalID) error {
	if err := j.check(); err != nil {
		return err
	}
	if id != Own {
		return fmt.Errorf("no journal %q here, only %q: %w", id, Own, store.ErrNotFound)
	}
	return ctx.Err()
}

// close waits for the Append under way.
func (j *journal) close() error {
	j.turn <- struct{}{}
	defer j.end()
	j.mu.Lock()
	closed := j.closed
	j.closed = true
	j.wakeLocked()
	j.mu.Unlock()
	j.trimming.Lock() // a Trim under way ends
	defer j.trimming.Unlock()
	if closed || j.file == nil {
		return nil
	}
	if j.durability == OS {
		if err := j.file.SyncData(); err != nil {
			return errors.Join(fmt.Errorf("close the journal: fsync: %w", err), j.file.Close())
		}
		j.seal()
	}
	if j.file == nil {
		return nil
	}
	// This makes the seal durable: whatever is found unreadable at the next start
	// is damage then.
	err := j.file.SyncData()
	if err = errors.Join(err, j.file.Close()); err != nil {
		err = fmt.Errorf("close the journal: %w", err)
	}
	j.file = nil
	return err
}

// stats adds what the journal knows.
func (j *journal) stats(s *store.Stats) {
	j.mu.Lock()
	defer j.mu.Unlock()
	// Who waits with the next Append until there is room must see that there is.
	if !errors.Is(j.err, syscall.ENOSPC) || j.space(0) != nil {
		s.Err = j.err
	}
	s.JournalRecords = uint64(j.next - j.firstLocked())
	for _, seg := range j.segments {
		s.JournalBytes += seg.size
	}
	s.Appends, s.AppendedBytes = j.appends, j.appended
	s.SyncLatency = j.latency
	s.WrittenBytes += j.written.Load()
}
