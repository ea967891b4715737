package pebble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

const (
	journalDir    = "journal"
	segmentSuffix = ".log"
	spareSuffix   = ".spare" // a segment that was trimmed, to be used again
	tempSuffix    = ".tmp"   // a segment that is being made
)

func segmentName(first store.Pos) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// Damage is a place in the journal that was durable once and can't be read.
type Damage struct {
	File   string // relative to the data directory
	Offset int64
	What   string
	// From and To are the first and the last record that can't be reached any
	// more, as far as can be told: To counts those that are known to have been
	// written.
	From, To store.Pos
	// Readable is how many of them stand intact behind the damage.
	Readable uint64
}

func (d *Damage) Error() string {
	return fmt.Sprintf("%s is damaged at offset %d: record %d: %s: records %d to %d can't be reached, %d of them are intact behind it",
		d.File, d.Offset, d.From, d.What, d.From, d.To, d.Readable)
}

func (d *Damage) Unwrap() error { return store.ErrDamaged }

// surveyed is one segment file.
type surveyed struct {
	name string
	size int64
	head segmentHead
	scanned
}

// survey is what reading a whole journal says.
type survey struct {
	segments []surveyed // those before the damage, the damaged one as the last
	beyond   []string   // files behind the damage, untouched
	spares   []string
	temps    []string
	damage   *Damage
	cut      *Damage // what Durability OS allowed to be lost in a power cut, and was
}

func (s *survey) first() store.Pos {
	if len(s.segments) == 0 {
		return 1
	}
	return s.segments[0].first()
}

func (s *survey) next() store.Pos {
	if len(s.segments) == 0 {
		return 1
	}
	return s.segments[len(s.segments)-1].next
}

func (s *survey) bytes() (n int64) {
	for _, seg := range s.segments {
		n += seg.bytes
	}
	return n
}

func (s surveyed) first() store.Pos { return s.head.first }

// Progress is told how many of how many bytes have been looked at.
type Progress func(done, total int64)

// surveyJournal reads all segments in dir and changes nothing. It stops at the
// first damage.
func surveyJournal(ctx context.Context, fs vfs.FS, dir string, progress Progress) (*survey, error) {
	s := &survey{}
	firsts, err := s.list(fs, dir)
	if err != nil {
		return nil, err
	}
	sizes, total := make([]int64, len(firsts)), int64(0)
	for i, first := range firsts {
		info, err := fs.Stat(fs.PathJoin(dir, segmentName(first)))
		if err != nil {
			return nil, fmt.Errorf("survey the journal: %w", err)
		}
		sizes[i] = info.Size()
		total += sizes[i]
	}
	done := int64(0)
	for i, first := range firsts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if s.damage != nil {
			s.beyond = append(s.beyond, segmentName(first))
			continue
		}
		if i > 0 && s.next() != first {
			s.damage = &Damage{Offset: 0, From: s.next(), To: first - 1, What: "the segment that held it is missing", File: relative(segmentName(first))}
			s.beyond = append(s.beyond, segmentName(first))
			continue
		}
		var until store.Pos
		if i+1 < len(firsts) {
			until = firsts[i+1]
		}
		if err := s.add(fs, dir, first, sizes[i], until); err != nil {
			return nil, err
		}
		if done += sizes[i]; progress != nil {
			progress(done, total)
		}
	}
	if s.damage != nil {
		return s, s.countBeyond(fs, dir, firsts)
	}
	return s, nil
}

func relative(name string) string { return journalDir + "/" + name }

// list sorts the files of the journal's directory.
func (s *survey) list(fs vfs.FS, dir string) ([]store.Pos, error) {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a crash before it was made
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var firsts []store.Pos
	for _, name := range names {
		number, isSegment := strings.CutSuffix(name, segmentSuffix)
		switch {
		case isSegment:
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil || n == 0 || name != segmentName(store.Pos(n)) {
				return nil, fmt.Errorf("%s in %s is no name of a segment, expected one like %s: move it away", name, dir, segmentName(1))
			}
			firsts = append(firsts, store.Pos(n))
		case strings.HasSuffix(name, spareSuffix):
			s.spares = append(s.spares, name)
		case strings.HasSuffix(name, tempSuffix):
			s.temps = append(s.temps, name)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// add reads one segment.
func (s *survey) add(fs vfs.FS, dir string, first store.Pos, size int64, until store.Pos) error {
	name := segmentName(first)
	seg := surveyed{name: name, size: size, scanned: scanned{next: first, end: headSize}}
	f, err := fs.Open(fs.PathJoin(dir, name))
	if err != nil {
		return fmt.Errorf("survey the journal: %w", err)
	}
	defer f.Close()
	seg.head, err = readHead(f, first)
	switch {
	case errors.Is(err, store.ErrNewerFormat):
		return fmt.Errorf("%s: %w", relative(name), err)
	case errors.Is(err, errBadHead):
		// Its frames can't be told from others without the salt. A new segment gets
		// its name when its head is durable, so this is no trace of a power cut.
		s.damage = &Damage{File: relative(name), From: first, To: max(until, first+1) - 1, What: err.Error()}
		seg.head.first = first
		s.segments = append(s.segments, seg)
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", relative(name), err)
	}
	seg.scanned, err = scan(f, size, seg.head, until)
	if err != nil { // a sector that the disk can't read is damage like any other
		seg.bad = err.Error()
	}
	s.segments = append(s.segments, seg)
	if seg.bad == "" {
		return nil
	}
	d := &Damage{File: relative(name), Offset: seg.end, From: seg.next, To: max(seg.later, until, seg.next+1) - 1, What: seg.bad}
	if seg.later >= seg.next && until == 0 {
		d.To = seg.later
	}
	d.countReadable(f, size, seg.head, seg.end, until)
	if until == 0 && seg.head.unsynced() && err == nil {
		s.cut = d
		return nil
	}
	s.damage = d
	return nil
}

func readHead(f io.ReaderAt, first store.Pos) (segmentHead, error) {
	b := make([]byte, headSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return segmentHead{}, err
	}
	h, err := decodeHead(b[:n])
	if err == nil && h.first != first {
		return segmentHead{}, fmt.Errorf("%w: it is the head of the segment that begins with record %d", errBadHead, h.first)
	}
	return h, err
}

// countReadable counts the intact records behind a damage, in its segment.
func (d *Damage) countReadable(r io.ReaderAt, size int64, h segmentHead, off int64, until store.Pos) {
	w := newWindow(r, size)
	for off += block; off < size; off += block {
		f, what, err := readFrame(w, h, off)
		if err == nil && what == "" && f.kind == kindRecord && f.pos > d.From && (until == 0 || f.pos < until) {
			d.Readable++
			d.To = max(d.To, f.pos)
			off += frameSize(int(f.n)) - block
		}
	}
}

// countBeyond counts the records of the segments behind the damage.
func (s *survey) countBeyond(fs vfs.FS, dir string, firsts []store.Pos) error {
	for i, first := range firsts {
		if !slices.Contains(s.beyond, segmentName(first)) {
			continue
		}
		var until store.Pos
		if i+1 < len(firsts) {
			until = firsts[i+1]
		}
		rest := &survey{}
		info, err := fs.Stat(fs.PathJoin(dir, segmentName(first)))
		if err != nil {
			return fmt.Errorf("survey the journal: %w", err)
		}
		if err := rest.add(fs, dir, first, info.Size(), until); err != nil {
			return err
		}
		s.damage.To = max(s.damage.To, rest.next()-1)
		s.damage.Readable += uint64(rest.next() - first)
		if rest.damage != nil {
			s.damage.To = max(s.damage.To, rest.damage.To)
			s.damage.Readable += rest.damage.Readable
		}
	}
	return nil
}
