package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

// memFile writes a file of a vfs.MemFS.
func writeFile(t *testing.T, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Clone(b)); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		t.Fatal(err)
	}
	return b
}

// segmentsOf builds a journal of n records and returns its files. Without close it
// is what a kill leaves.
func segmentsOf(t *testing.T, n int, closed bool) (files map[string][]byte, want [][]byte) {
	t.Helper()
	mem := vfs.NewMem()
	j, _ := mustJournal(t, mem, Fsync)
	for i := 1; i <= n; i++ {
		want = append(want, payload(i))
		if _, err := j.Append(t.Context(), payload(i)); err != nil {
			t.Fatal(err)
		}
	}
	if closed {
		j.close()
	}
	names, err := mem.List("data/journal")
	if err != nil {
		t.Fatal(err)
	}
	files = make(map[string][]byte)
	for _, name := range names {
		files[name] = readFile(t, mem, "data/journal/"+name)
	}
	return files, want
}

// surveyOf looks at files, and demands that what counts as good is right and that
// the journal misses nothing but its end, or is damaged.
func surveyOf(t *testing.T, files map[string][]byte, want [][]byte, what string) *survey {
	t.Helper()
	mem := vfs.NewMem()
	if err := makeDir(mem, "data/journal"); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		writeFile(t, mem, "data/journal/"+name, b)
	}
	s, err := surveyJournal(t.Context(), mem, "data/journal", nil)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if s.first() != 1 || int(s.next()) > len(want)+1 {
		t.Fatalf("%s: records %d to %d, expected them from 1 to at most %d", what, s.first(), s.next()-1, len(want))
	}
	if s.damage != nil {
		if s.damage.From != s.next() || s.damage.To < s.damage.From || s.damage.File == "" {
			t.Fatalf("%s: damage %+v, and good records up to %d", what, s.damage, s.next()-1)
		}
		return s
	}
	j, _, err := testJournal(mem, Fsync)
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	defer j.close()
	got := records(t, j)
	if len(got) != int(s.next())-1 {
		t.Fatalf("%s: %d records, expected %d", what, len(got), s.next()-1)
	}
	for at, rec := range got {
		if !bytes.Equal(rec, want[at-1]) {
			t.Fatalf("%s: record %d is %.20q, expected %.20q", what, at, rec, want[at-1])
		}
	}
	return s
}

// TestEveryByte changes each byte of a journal in turn. With a seal behind the last
// record no change may cost a record silently.
func TestEveryByte(t *testing.T) {
	files, want := segmentsOf(t, 5, true)
	if len(files) != 1 {
		t.Fatalf("%d segments, expected one: the last must be looked at closely", len(files))
	}
	torn := 0
	for name, whole := range files {
		for at := range whole {
			inFrameHead := at >= headSize && at%block < frameHead
			if !inFrameHead && at > headBytes && (whole[at] == 0 && at%193 != 0 || at%13 != 0) {
				continue // zeros, and the inside of data, one byte like the other
			}
			changed := bytes.Clone(whole)
			changed[at] ^= 1 << (at % 8)
			s := surveyOf(t, map[string][]byte{name: changed}, want, fmt.Sprintf("byte %d", at))
			if s.damage == nil && s.next() != store.Pos(len(want)+1) {
				torn++
				t.Errorf("byte %d changed: the records from %d on are gone, and no damage is reported", at, s.next())
			}
		}
	}
}

// TestEveryByteBeforeTheEnd does the same where other segments follow.
func TestEveryByteBeforeTheEnd(t *testing.T) {
	files, want := segmentsOf(t, 30, false)
	if len(files) < 3 {
		t.Fatalf("%d segments, expected more", len(files))
	}
	name := segmentName(1)
	for at := 0; at < len(files[name]); at += 193 {
		changed := bytes.Clone(files[name])
		changed[at] ^= 0x10
		all := map[string][]byte{name: changed}
		for other, b := range files {
			if other != name {
				all[other] = b
			}
		}
		s := surveyOf(t, all, want, fmt.Sprintf("byte %d of the first segment", at))
		if s.damage == nil && s.next() != store.Pos(len(want)+1) {
			t.Errorf("byte %d changed: the records from %d on are gone, and no damage is reported", at, s.next())
		}
	}
}

// TestEveryLength cuts the journal at many places: in its last segment that looks
// like a torn end or is damage, before it it is damage.
func TestEveryLength(t *testing.T) {
	files, want := segmentsOf(t, 12, false)
	last := ""
	for name := range files {
		last = max(last, name)
	}
	for n := 0; n < len(files[last]); n += 509 {
		all := make(map[string][]byte)
		for name, b := range files {
			all[name] = b
		}
		all[last] = files[last][:n]
		surveyOf(t, all, want, fmt.Sprintf("last segment of %d bytes", n))
	}
	first := segmentName(1)
	for n := 0; n < len(files[first])-segmentTest/3; n += 1021 {
		all := make(map[string][]byte)
		for name, b := range files {
			all[name] = b
		}
		all[first] = files[first][:n]
		s := surveyOf(t, all, want, fmt.Sprintf("first segment of %d bytes", n))
		if s.damage == nil {
			t.Errorf("first segment of %d bytes: no damage reported", n)
		}
	}
}

// TestTornEnd overwrites the blocks of a last record, unsealed, in each combination
// with what was there before.
func TestTornEnd(t *testing.T) {
	files, want := segmentsOf(t, 4, false)
	name := segmentName(1)
	// The record of three blocks that was under way.
	mem := vfs.NewMem()
	if err := makeDir(mem, "data/journal"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, mem, "data/journal/"+name, files[name])
	j, s := mustJournal(t, mem, Fsync)
	rec := bytes.Repeat([]byte("under way "), 1000)
	if _, err := j.Append(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	end := s.segments[0].end
	after := readFile(t, mem, "data/journal/"+name)
	for mask := range 8 {
		torn := make([]byte, len(after)) // zeros where the file was extended
		copy(torn, files[name])
		for i := range 3 {
			if mask&(1<<i) != 0 {
				copy(torn[end+int64(i)*block:], after[end+int64(i)*block:end+int64(i+1)*block])
			}
		}
		all := want
		if mask == 7 {
			all = append(all[:len(all):len(all)], rec)
		}
		s := surveyOf(t, map[string][]byte{name: torn}, all, fmt.Sprintf("blocks %03b of the last record", mask))
		if s.damage != nil || s.next() != store.Pos(len(all)+1) {
			t.Errorf("blocks %03b of the last record written: next %d, damage %v, expected %d and none", mask, s.next(), s.damage, len(all)+1)
		}
		if wantTorn := mask&1 != 0 && mask != 7; (s.segments[0].torn > 0) != wantTorn {
			t.Errorf("blocks %03b of the last record written: %d bytes torn", mask, s.segments[0].torn)
		}
	}
}

// damaged returns a data directory of the real file system with a flipped bit in
// the record with that number, and the records it held.
func damagedDir(t *testing.T, n int, at store.Pos) (dir string, o Options) {
	t.Helper()
	dir, o = t.TempDir(), Options{SegmentBytes: segmentTest}
	e, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= n; i++ {
		if _, err := e.Journal().Append(t.Context(), payload(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.KV().Put(t.Context(), "key", []byte("value"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	seg, _, err := e.journal.find(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, journalDir, segmentName(seg.first))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, payload(int(at)))
	if i < 0 {
		t.Fatalf("record %d isn't in %s", at, file)
	}
	b[i+3] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, o
}

func TestCheckAndRepair(t *testing.T) {
	const n = 40
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, at := range []store.Pos{1, 5, 20, n} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			dir, o := damagedDir(t, n, at)
			_, err := Open(dir, o)
			if !errors.Is(err, store.ErrDamaged) {
				t.Fatalf("Open of a damaged journal: %v", err)
			}
			for _, want := range []string{"journal/0000", fmt.Sprintf("record %d", at), fmt.Sprintf("records %d to %d", at, n), "fairlead store repair --data " + dir} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Open says %q, expected %q in it", err, want)
				}
			}
			tree := treeOf(t, dir)
			calls := 0
			r, err := Check(t.Context(), dir, o, func(done, total int64) { calls++ })
			if !errors.Is(err, store.ErrDamaged) || r.Damage == nil || r.Keys != 1 || calls == 0 {
				t.Fatalf("Check: %+v, %v, %d calls of progress", r, err, calls)
			}
			if d := r.Damage; d.From != at || d.To != n || d.Readable != uint64(n-at) {
				t.Fatalf("Check: damage %+v, expected records %d to %d with %d intact", d, at, n, store.Pos(n)-at)
			}
			if again := treeOf(t, dir); again != tree {
				t.Fatalf("Check changed the directory:\n%s\nwas\n%s", again, tree)
			}
			r, err = Repair(t.Context(), dir, o, now, nil)
			if err != nil || r.Damage == nil || len(r.Moved) == 0 || r.Aside != "journal/damaged-20261125-120000" {
				t.Fatalf("Repair: %+v, %v", r, err)
			}
			for _, file := range r.Moved {
				if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
					t.Errorf("Repair says it moved a file: %v", err)
				}
			}
			e, err := Open(dir, o)
			if err != nil {
				t.Fatalf("Open after Repair: %v", err)
			}
			defer e.Close()
			if pos, err := e.Journal().Append(t.Context(), []byte("on")); err != nil || pos != at {
				t.Fatalf("Append after Repair = %d, %v, expected %d", pos, err, at)
			}
			got := records(t, e.journal)
			for i := store.Pos(1); i < at; i++ {
				if !bytes.Equal(got[i], payload(int(i))) {
					t.Fatalf("record %d differs after Repair", i)
				}
			}
			for _, err := range e.Journal().Tail(t.Context(), Own, at+5) {
				if !errors.Is(err, store.ErrDamaged) {
					t.Fatalf("Tail from a lost record: %v", err)
				}
			}
		})
	}
}

// treeOf lists the files of a directory with their content.
func treeOf(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMissingSegment(t *testing.T) {
	files, want := segmentsOf(t, 40, true)
	mem := vfs.NewMem()
	if err := makeDir(mem, "data/journal"); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, b := range files {
		names = append(names, name)
		writeFile(t, mem, "data/journal/"+name, b)
	}
	if err := writeFormat(mem, "data", formatVersion); err != nil {
		t.Fatal(err)
	}
	s, err := surveyJournal(t.Context(), mem, "data/journal", nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := s.segments[1]
	if err := mem.Remove("data/journal/" + gone.name); err != nil {
		t.Fatal(err)
	}
	r, err := Check(t.Context(), "data", Options{FS: mem}, nil)
	if d := r.Damage; d == nil || d.From != gone.first() || int(d.To) != len(want) {
		t.Fatalf("Check without %s of %v: %+v, %v", gone.name, names, d, err)
	}
	if _, err := Repair(t.Context(), "data", Options{FS: mem}, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	j, _ := mustJournal(t, mem, Fsync)
	if _, next, _ := j.Span(context.Background(), Own); next != gone.first() {
		t.Fatalf("after Repair the next record is %d, expected %d", next, gone.first())
	}
}

// FuzzScan changes a segment of five records and reads it: no panic, and what is
// called good is what was written. Each four bytes of changes are an offset, a bit
// pattern, and whether the head of the frame there gets a right checksum again. The
// input is that and no whole segment, since Go's fuzzer works best with little.
func FuzzScan(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint8(0))
	f.Add([]byte{0x20, 0x08, 1, 1}, uint16(0), uint8(0))
	f.Add([]byte{0x20, 0x30, 1, 0, 0, 0, 1, 0}, uint16(0x4001), uint8(0))
	f.Add([]byte{0x20, 0x04, 0xff, 1}, uint16(0), uint8(4))
	const n = 5
	head := newSegmentHead(1, Fsync)
	whole := head.encode()
	for i := 1; i <= n; i++ {
		whole = append(whole, encodeFrame(store.Pos(i), payload(i), head.seed)...)
	}
	seal := make([]byte, block)
	frame{pos: n, kind: kindSeal}.put(seal, head.seed)
	whole = append(whole, seal...)
	f.Fuzz(func(t *testing.T, changes []byte, cut uint16, until uint8) {
		b := bytes.Clone(whole)
		for ; len(changes) >= 4; changes = changes[4:] {
			at := (int(changes[0])<<8 | int(changes[1])) % len(b)
			b[at] ^= changes[2]
			if start := at / block * block; changes[3]&1 != 0 && start >= headSize {
				binary.LittleEndian.PutUint32(b[start:], headSum(b[start:], head.seed))
			}
		}
		b = b[:len(b)-int(cut)%len(b)]
		h, err := readHead(bytes.NewReader(b), 1)
		if err != nil {
			return
		}
		s, err := scan(bytes.NewReader(b), int64(len(b)), h, store.Pos(until))
		if err != nil {
			t.Fatalf("reading memory failed: %v", err)
		}
		off := int64(headSize)
		for at := store.Pos(1); at < s.next; at++ {
			if rec := payload(int(at)); at > n || !bytes.Equal(b[off+frameHead:off+frameHead+int64(len(rec))], rec) {
				t.Fatalf("record %d is called good and isn't", at)
			}
			off += frameSize(len(payload(int(at))))
		}
		if off != s.end {
			t.Fatalf("the good records end at %d, scan says %d", off, s.end)
		}
	})
}

func encodeFrame(at store.Pos, rec []byte, seed uint32) []byte {
	b := make([]byte, frameSize(len(rec)))
	w := window{r: bytes.NewReader(rec), size: int64(len(rec)), buf: make([]byte, len(rec)+1)}
	sum, _, _ := w.sum(0, len(rec))
	frame{pos: at, n: uint32(len(rec)), sum: sum, kind: kindRecord}.put(b, seed)
	copy(b[frameHead:], rec)
	return b
}
