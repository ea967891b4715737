package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Query says which entries List returns. Empty fields ask for nothing.
type Query struct {
	Since, Until time.Time // entries of that time or later, and before that time
	Actor        string    // name of the actor
	Action       string    // the action, or with a dot at the end what it begins with: "device."
	Object       string
	Kind         Kind
	After        uint64 // go on behind this entry: Page.Next
	Limit        int    // 0: LimitDefault; at most LimitMax
	OldestFirst  bool   // else the newest come first
}

// How many entries a Page has.
const (
	LimitDefault = 100
	LimitMax     = 1000
)

// Page is a part of the answer to a Query.
type Page struct {
	Entries []Entry
	Next    uint64 // Query.After of the next page; 0: this is the last
	Damaged int    // lines passed over because they could not be read; Verify says where
}

// clockSlack is how far the clock may have been set back: a Query by time passes
// over files that are older or newer by more than this.
const clockSlack = 24 * time.Hour

// List reads a page of a log. It holds a few lines at a time, and may be used while
// the log is written.
func List(ctx context.Context, dir string, q Query) (Page, error) {
	if q.Limit < 0 || q.Limit > LimitMax {
		return Page{}, fmt.Errorf("audit log: a page of %d entries, expected 1 to %d", q.Limit, LimitMax)
	}
	if q.Limit == 0 {
		q.Limit = LimitDefault
	}
	var err error
	for range relistingMax {
		l := lister{ctx: ctx, dir: dir, q: q}
		if err = l.list(); !errors.Is(err, errRemoved) {
			return l.page, err
		}
	}
	return Page{}, err
}

type lister struct {
	ctx   context.Context
	dir   string
	q     Query
	page  Page
	lines int
}

func (l *lister) list() error {
	files, err := listFiles(l.dir)
	if err != nil {
		return err
	}
	chosen := l.choose(files)
	if !l.q.OldestFirst {
		slices.Reverse(chosen)
	}
	for _, f := range chosen {
		full, err := l.file(f)
		if err != nil || full {
			return err
		}
	}
	return nil
}

// choose leaves out files whose entries can't match.
func (l *lister) choose(files []logFile) []logFile {
	var chosen []logFile
	for i, f := range files {
		begins, ends := l.span(files, i)
		switch {
		case l.q.After != 0 && !l.q.OldestFirst && f.first >= l.q.After:
		case l.q.After != 0 && l.q.OldestFirst && i+1 < len(files) && files[i+1].first <= l.q.After:
		case !l.q.Since.IsZero() && !ends.IsZero() && ends.Before(l.q.Since.Add(-clockSlack)):
		case !l.q.Until.IsZero() && !begins.IsZero() && begins.After(l.q.Until.Add(clockSlack)):
		default:
			chosen = append(chosen, f)
		}
	}
	return chosen
}

// span is about when the entries of a file were written; zero: unknown. Only what
// the query needs is read.
func (l *lister) span(files []logFile, i int) (begins, ends time.Time) {
	if !l.q.Until.IsZero() {
		begins = l.begins(files[i])
	}
	if !l.q.Since.IsZero() && i+1 < len(files) {
		ends = l.begins(files[i+1])
	}
	return begins, ends
}

func (l *lister) begins(f logFile) time.Time {
	e, err := firstEntry(filepath.Join(l.dir, fileName(f.first)))
	if err != nil {
		return time.Time{}
	}
	return e.Time
}

// file adds what matches in one file, and reports whether the page is full.
func (l *lister) file(f logFile) (full bool, err error) {
	name := fileName(f.first)
	r, err := os.Open(filepath.Join(l.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, errRemoved
	}
	if err != nil {
		return false, fmt.Errorf("audit log: %w", err)
	}
	defer r.Close()
	next, err := l.reader(r)
	for err == nil {
		var text []byte
		var complete bool
		if text, complete, err = next(); err != nil {
			break
		}
		if err := checkContext(l.ctx, l.lines); err != nil {
			return false, err
		}
		l.lines++
		if full, err := l.line(text, complete); full || err != nil {
			return full, err
		}
	}
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return false, fmt.Errorf("audit log: read %s: %w", name, err)
}

// reader returns a func that reads the next line in the order of the query.
func (l *lister) reader(f *os.File) (func() (text []byte, complete bool, err error), error) {
	if l.q.OldestFirst {
		r := newLineReader(f)
		return func() ([]byte, bool, error) {
			text, _, complete, err := r.next()
			return text, complete, err
		}, nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return newBackReader(f, info.Size()).next, nil
}

func (l *lister) line(text []byte, complete bool) (full bool, err error) {
	e, err := parseLine(text)
	if err != nil {
		if complete { // else it is being written
			l.page.Damaged++
		}
		return false, nil
	}
	if !l.q.matches(e) {
		return false, nil
	}
	if len(l.page.Entries) == l.q.Limit { // there is one more
		l.page.Next = l.page.Entries[l.q.Limit-1].Number
		return true, nil
	}
	l.page.Entries = append(l.page.Entries, e)
	return false, nil
}

func (q Query) matches(e Entry) bool {
	prefix, open := strings.CutSuffix(q.Action, ".")
	switch {
	case q.After != 0 && q.OldestFirst && e.Number <= q.After,
		q.After != 0 && !q.OldestFirst && e.Number >= q.After,
		q.Kind != "" && e.Kind != q.Kind,
		q.Actor != "" && e.Actor.Name != q.Actor,
		q.Object != "" && e.Object != q.Object,
		!q.Since.IsZero() && e.Time.Before(q.Since),
		!q.Until.IsZero() && !e.Time.Before(q.Until):
		return false
	case open:
		return strings.HasPrefix(e.Action, prefix+".")
	}
	return q.Action == "" || e.Action == q.Action
}

// backReader reads lines from the end of a file.
type backReader struct {
	r     io.ReaderAt
	start int64  // in the file, of buf
	buf   []byte // what has been read and not returned
}

func newBackReader(r io.ReaderAt, size int64) *backReader {
	return &backReader{r: r, start: size}
}

// next returns the line before, valid until the next call, and whether it has a
// break; of a line that is longer than any entry it returns pieces. The error is
// io.EOF at the beginning of the file.
func (b *backReader) next() (text []byte, complete bool, err error) {
	for {
		body := bytes.TrimSuffix(b.buf, []byte("\n"))
		i := bytes.LastIndexByte(body, '\n')
		if i < 0 && b.start > 0 && len(b.buf) <= lineMax {
			if err := b.more(); err != nil {
				return nil, false, err
			}
			continue
		}
		if len(b.buf) == 0 {
			return nil, false, io.EOF
		}
		text, complete = body[i+1:], len(body) < len(b.buf)
		b.buf = b.buf[:i+1]
		return text, complete, nil
	}
}

// more reads another piece in front of what there is.
func (b *backReader) more() error {
	n := min(b.start, readerBytes)
	buf := make([]byte, n+int64(len(b.buf)))
	if _, err := b.r.ReadAt(buf[:n], b.start-n); err != nil {
		return err
	}
	copy(buf[n:], b.buf)
	b.buf, b.start = buf, b.start-n
	return nil
}
