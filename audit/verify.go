package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// wrongMax is how many wrong places a Report lists; the others are counted.
const wrongMax = 100

// VerifyOptions say what Verify does beside reading. The zero value is good.
type VerifyOptions struct {
	// Anchors are anchors of this log that were kept elsewhere.
	Anchors []Anchor
	// Progress, if not nil, is called after each file, and some times within.
	Progress func(Progress)
}

// Progress is how far a Verify has come.
type Progress struct {
	Bytes, TotalBytes int64
	Entries           uint64
}

// Report is what Verify has found.
type Report struct {
	Files       int
	Entries     uint64 // readable ones
	Bytes       int64
	First, Last uint64 // numbers; 0: there is no entry
	LastHash    Hash
	Removed     uint64 // entries that were removed because of a limit, as the log says
	Lost        uint64 // refusals that have no entry, as the log says
	// Torn is how many bytes an unfinished line at the end has. A crash leaves such a
	// line, and so does reading while the log is being written; it is not wrong.
	Torn int64
	// Wrong are the places where the log is not what was written, the first first.
	// None: it is whole.
	Wrong []Wrong
	More  int // wrong places beyond those in Wrong
}

// OK reports whether the log is whole.
func (r Report) OK() bool { return len(r.Wrong) == 0 }

// Wrong is a place where the log is not what was written.
type Wrong struct {
	File     string // within the directory
	Line     int    // from 1; 0: the file as such
	Number   uint64 // of the entry there, if it can be read
	Expected string
	Found    string
}

// String says where, what was expected, and what is there.
func (w Wrong) String() string {
	return fmt.Sprintf("%s:%d: expected %s, found %s", w.File, w.Line, w.Expected, w.Found)
}

// Verify reads a whole log and checks each entry against its hash and against the
// one before. What is wrong stands in the Report; the error says that the log
// could not be read. The log may be in use meanwhile.
func Verify(ctx context.Context, dir string, o VerifyOptions) (Report, error) {
	var err error
	for range relistingMax {
		var r Report
		r, err = verify(ctx, dir, o)
		if !errors.Is(err, errRemoved) {
			return r, err
		}
	}
	return Report{}, err
}

// errRemoved says that a file was removed between listing and reading.
var errRemoved = errors.New("files were removed meanwhile")

func verify(ctx context.Context, dir string, o VerifyOptions) (Report, error) {
	w := &walk{dir: dir, progress: o.Progress}
	// The anchor is read first: the log may grow while it is read, but must hold
	// what the anchor knew before.
	anchor, err := ReadAnchor(dir)
	noAnchor := err
	files, err := listFiles(dir)
	if err != nil {
		return Report{}, err
	}
	for _, f := range files {
		w.totalBytes += f.size
	}
	w.anchors = o.Anchors
	if noAnchor == nil {
		w.anchors = append(w.anchors[:len(w.anchors):len(w.anchors)], anchor)
	}
	for i, f := range files {
		if err := w.file(ctx, f, i == len(files)-1); err != nil {
			return Report{}, err
		}
	}
	w.finish()
	if noAnchor != nil && w.Entries > 0 {
		w.wrong(Wrong{File: anchorName, Expected: "number and hash of an entry near the end", Found: noAnchor.Error()})
	}
	return w.Report, nil
}

// walk reads files in order and follows the chain. After a wrong place it goes on
// with what stands there, so that one damage is one finding.
type walk struct {
	Report
	dir        string
	anchors    []Anchor
	totalBytes int64
	progress   func(Progress)

	started  bool   // an entry has been read, whose number and hash are Last and LastHash
	broken   bool   // the latest line could not be read
	end      int64  // of the last readable line, in the latest file
	begun    Anchor // what the first entry says of the one before it
	at       Wrong  // the place of the first entry
	disputed bool   // an entry has another hash than an anchor knows
	accepted bool   // the log says that the entries before the first were removed
}

// removal is what a NoteRemove says in its After.
type removal struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Hash  Hash   `json:"hash"` // of the last entry in the file
}

func (w *walk) wrong(x Wrong) {
	if len(w.Wrong) < wrongMax {
		w.Wrong = append(w.Wrong, x)
		return
	}
	w.More++
}

// file reads one file. end is then where its last readable line ends.
func (w *walk) file(ctx context.Context, f logFile, last bool) error {
	name := fileName(f.first)
	r, err := os.Open(filepath.Join(w.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return errRemoved
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	defer r.Close()
	w.Files++
	w.end = 0
	lines, from := newLineReader(r), w.Bytes
	for n := 1; ; n++ {
		text, size, complete, err := lines.next()
		if errors.Is(err, io.EOF) {
			if n == 1 && !last {
				w.wrong(Wrong{File: name, Line: 1, Expected: fmt.Sprintf("entry %d", f.first), Found: "an empty file"})
			}
			w.report()
			return nil
		}
		if err != nil {
			return fmt.Errorf("audit log: read %s: %w", name, err)
		}
		if err := checkContext(ctx, n); err != nil {
			return err
		}
		w.Bytes += size
		if !complete && last && torn(text) {
			w.Torn = size
			w.report()
			return nil
		}
		w.line(Wrong{File: name, Line: n}, f, text, complete)
		w.end = w.Bytes - from
		if n%4096 == 0 {
			w.report()
		}
	}
}

func (w *walk) report() {
	if w.progress != nil {
		w.progress(Progress{Bytes: w.Bytes, TotalBytes: max(w.totalBytes, w.Bytes), Entries: w.Entries})
	}
}

func (w *walk) line(at Wrong, f logFile, text []byte, complete bool) {
	e, err := parseLine(text)
	if err == nil && !complete {
		err = errors.New("an entry without a line break")
	}
	if err != nil {
		at.Expected, at.Found = "an entry", err.Error()
		if w.started && !w.broken {
			at.Expected = fmt.Sprintf("entry %d", w.Last+1)
		}
		w.broken = true
		w.wrong(at)
		return
	}
	at.Number = e.Number
	w.follow(at, f, e)
	w.note(e)
	w.checkAnchors(at, e)
	w.Entries++
	w.Last, w.LastHash = e.Number, e.Hash
	w.started, w.broken = true, false
}

// follow holds an entry against the one before it. Behind a line that could not be
// read there is no such thing, and that line is the finding.
func (w *walk) follow(at Wrong, f logFile, e Entry) {
	if !w.started {
		w.First, w.begun, w.at = e.Number, Anchor{e.Number - 1, e.Prev}, at
	}
	switch {
	case at.Line == 1 && e.Number != f.first:
		at.Expected = fmt.Sprintf("entry %d, as the file's name says", f.first)
	case w.broken || !w.started:
		return
	case e.Number != w.Last+1:
		at.Expected = fmt.Sprintf("entry %d", w.Last+1)
	case e.Prev != w.LastHash:
		at.Expected, at.Found = "prev "+w.LastHash.String(), "prev "+e.Prev.String()
	default:
		return
	}
	if at.Found == "" {
		at.Found = fmt.Sprintf("entry %d", e.Number)
	}
	w.wrong(at)
}

// note takes what the log says of itself.
func (w *walk) note(e Entry) {
	if e.Kind != Note {
		return
	}
	switch e.Action {
	case NoteLost:
		w.Lost += min(e.Count, math.MaxUint64-w.Lost)
	case NoteRemove:
		var r removal
		after, _ := e.After.(json.RawMessage)
		if json.Unmarshal(after, &r) == nil {
			w.accepted = w.accepted || Anchor{r.Last, r.Hash} == w.begun
		}
	}
}

func (w *walk) checkAnchors(at Wrong, e Entry) {
	for _, a := range w.anchors {
		if a.Number == e.Number && a.Hash != e.Hash {
			at.Expected = "the hash that an anchor has: " + a.Hash.String()
			at.Found = e.Hash.String()
			w.disputed = true
			w.wrong(at)
		}
	}
}

// finish checks both ends of the chain.
func (w *walk) finish() {
	switch {
	case w.started && w.First > 1 && w.accepted:
		w.Removed = w.First - 1
	case w.started && w.First > 1:
		at := w.at
		at.Expected = fmt.Sprintf("entry 1, or a later one that says that those before %d were removed", w.First)
		at.Found = fmt.Sprintf("entry %d", w.First)
		w.wrong(at)
	case w.started && w.begun.Hash != Hash{}:
		at := w.at
		at.Expected, at.Found = "prev "+Hash{}.String(), "prev "+w.begun.Hash.String()
		w.wrong(at)
	}
	for _, a := range w.anchors {
		if a.Number > w.Last {
			w.wrong(Wrong{
				File: anchorName, Line: 1, Number: a.Number,
				Expected: fmt.Sprintf("entry %d, which an anchor knows", a.Number), Found: fmt.Sprintf("entry %d as the last one", w.Last),
			})
		}
	}
}
