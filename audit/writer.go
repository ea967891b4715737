package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// file is what the writer needs of an os.File; tests put one that fails.
type file interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Close() error
}

func openFile(path string) (file, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, fileMode)
}

// writer appends lines to the files of a directory. One goroutine owns it.
type writer struct {
	dir    string
	o      Options
	open   func(path string) (file, error)
	logger *slog.Logger

	files  []logFile // those that exist; the last one is written to, unless next is set
	next   uint64    // the number that a new file begins with; 0: no new file is needed
	f      file      // the last of files; nil: not open
	dirty  bool      // a failure may have left bytes behind the good ones
	begun  time.Time // when the first entry of the last file was written, about
	number uint64    // of the last entry
	hash   Hash      // of the last entry

	anchored *Anchor   // the anchor on disk; nil: there is none, or a bad one
	retry    time.Time // when a file that could not be removed may be tried again
}

// recover finds the end of the log and mends what a crash leaves. It returns notes
// about what it found, to be appended first.
func (w *writer) recover(ctx context.Context) ([]Entry, error) {
	if err := os.MkdirAll(w.dir, dirMode); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	files, err := listFiles(w.dir)
	if err != nil {
		return nil, err
	}
	w.files = files
	anchor, noAnchor := ReadAnchor(w.dir)
	if noAnchor != nil && len(files) == 0 && errors.Is(noAnchor, fs.ErrNotExist) {
		w.next = 1
		return nil, nil
	}
	end, err := w.walkEnd(ctx, anchor)
	if err != nil {
		return nil, err
	}
	w.number, w.hash = end.Last, end.LastHash
	if n := len(files); n > 0 {
		w.begun = files[n-1].modified
		if e, err := firstEntry(filepath.Join(w.dir, fileName(files[n-1].first))); err == nil {
			w.begun = e.Time
		}
	}
	if noAnchor == nil {
		w.anchored = &anchor
	}
	return w.mend(end, anchor, noAnchor)
}

// walkEnd follows the chain from the entry that the anchor knows, or from where
// there is any entry.
func (w *writer) walkEnd(ctx context.Context, anchor Anchor) (*walk, error) {
	from := len(w.files) - 1
	for from > 0 && w.files[from].first > anchor.Number && anchor.Number > 0 {
		from--
	}
	for ; ; from-- {
		end := &walk{dir: w.dir}
		if anchor.Number > 0 {
			end.anchors = []Anchor{anchor}
		}
		for i := max(from, 0); i < len(w.files); i++ {
			if err := end.file(ctx, w.files[i], i == len(w.files)-1); err != nil {
				return nil, err
			}
		}
		if end.started || from <= 0 {
			return end, nil
		}
	}
}

// mend makes the directory ready to be appended to. An unfinished line is cut off.
// What was durable once is never touched: after a damage the log goes on in a new
// file, with a number that leaves a gap where entries are missing, so that Verify
// sees it for as long as the files are kept.
func (w *writer) mend(end *walk, anchor Anchor, noAnchor error) ([]Entry, error) {
	var notes []Entry
	if noAnchor != nil {
		notes = append(notes, note(NoteAnchor, anchorName, noAnchor.Error(), nil))
	}
	if end.Torn > 0 {
		cut, err := w.cut(end)
		if err != nil {
			return nil, err
		}
		notes = append(notes, cut)
	}
	whole := len(end.Wrong) == 0 && len(w.files) > 0
	if !whole && len(end.Wrong) > 0 {
		notes = append(notes, note(NoteDamage, end.Wrong[0].File, end.Wrong[0].String(), nil))
	}
	if end.disputed {
		w.hash = anchor.Hash // the chain that was rewritten shall not go on as if it were whole
	}
	if anchor.Number > end.Last {
		whole = false
		notes = append(notes, note(NoteMissing, anchorName, fmt.Sprintf("the log ends with entry %d, and the anchor knows entry %d", end.Last, anchor.Number), anchor))
		w.number, w.hash = anchor.Number, anchor.Hash
	}
	if !whole {
		w.next = w.number + 1
		if n := len(w.files); n > 0 && w.files[n-1].first >= w.next {
			w.next = w.files[n-1].first + 1
			w.number = w.next - 1
		}
	}
	return notes, nil
}

func (w *writer) cut(end *walk) (Entry, error) {
	last := &w.files[len(w.files)-1]
	name := fileName(last.first)
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_WRONLY, 0)
	if err == nil {
		err = errors.Join(f.Truncate(end.end), f.Sync(), f.Close())
	}
	if err != nil {
		return Entry{}, fmt.Errorf("audit log: cut off the unfinished line of %s: %w", name, err)
	}
	last.size = end.end
	return note(NoteTorn, name, fmt.Sprintf("an unfinished line of %d bytes was cut off", end.Torn), nil), nil
}

// append writes the lines and returns once they are durable. After an error none of
// them is part of the log.
func (w *writer) append(lines []line, now time.Time) error {
	if err := w.ready(now); err != nil {
		return err
	}
	var buf []byte
	number, hash := w.number, w.hash
	for _, l := range lines {
		number++
		l.Number, l.Time, l.Prev = number, now.UTC().Round(0), hash
		var err error
		if buf, hash, err = appendLine(buf, l); err != nil {
			return fmt.Errorf("audit log: entry %d: %w", number, err)
		}
	}
	last := &w.files[len(w.files)-1]
	w.dirty = true
	_, err := w.f.Write(buf)
	if err == nil {
		err = w.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("audit log: write %s: %w", fileName(last.first), err)
	}
	w.dirty = false
	last.size += int64(len(buf))
	last.modified = now
	w.number, w.hash = number, hash
	return nil
}

// ready sees to it that the last file is open, whole and not too long.
func (w *writer) ready(now time.Time) error {
	if err := w.repair(); err != nil {
		return err
	}
	if w.anchored == nil { // before the first entry, so that a missing anchor means something
		if err := w.anchor(); err != nil {
			return err
		}
	}
	if n := len(w.files); n > 0 && w.next == 0 && w.files[n-1].size > 0 && w.full(now) {
		w.next = w.number + 1
	}
	if w.next != 0 {
		return w.begin(now)
	}
	return w.reopen()
}

// full reports whether the next entry belongs into another file. With a limit on
// the age, a file spans a tenth of it, so that it can be removed about in time.
func (w *writer) full(now time.Time) bool {
	return w.files[len(w.files)-1].size >= w.o.FileBytes || w.o.Age > 0 && now.Sub(w.begun) > w.o.Age/10
}

// repair takes away what a failed append may have left. Until it succeeds nothing
// is appended.
func (w *writer) repair() error {
	if !w.dirty {
		return nil
	}
	if err := w.reopen(); err != nil {
		return err
	}
	last := w.files[len(w.files)-1]
	err := w.f.Truncate(last.size)
	if err == nil {
		err = w.f.Sync()
	}
	if err != nil {
		err = fmt.Errorf("audit log: repair %s: %w", fileName(last.first), err)
		w.close()
		return err
	}
	w.dirty = false
	return nil
}

func (w *writer) reopen() error {
	if w.f != nil {
		return nil
	}
	f, err := w.open(filepath.Join(w.dir, fileName(w.files[len(w.files)-1].first)))
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	w.f = f
	return nil
}

// begin makes a new file.
func (w *writer) begin(now time.Time) error {
	f, err := w.open(filepath.Join(w.dir, fileName(w.next)))
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if err := syncDir(w.dir); err != nil {
		f.Close()
		return fmt.Errorf("audit log: %w", err)
	}
	w.close()
	w.f = f
	w.files = append(w.files, logFile{first: w.next, modified: now})
	w.next, w.begun = 0, now
	return nil
}

// close lets go of the file. What was written is durable already.
func (w *writer) close() {
	if w.f == nil {
		return
	}
	if err := w.f.Close(); err != nil {
		w.logger.Warn("audit log: a file was not closed", "err", err)
	}
	w.f = nil
}

// limit removes files that are too many or too old, the oldest first. What is to be
// removed is first noted in the log.
func (w *writer) limit(now time.Time) error {
	for len(w.files) > 1 && !now.Before(w.retry) {
		why := w.tooMuch(now)
		if why == "" {
			return nil
		}
		if err := w.remove(why, now); err != nil {
			w.retry = now.Add(removeRetry)
			return err
		}
	}
	return nil
}

// removeRetry is how long a file that can't be removed is left alone: each try
// adds a note.
const removeRetry = time.Hour

func (w *writer) tooMuch(now time.Time) string {
	var total int64
	for _, f := range w.files {
		total += f.size
	}
	if w.o.TotalBytes >= 0 && total > w.o.TotalBytes {
		return fmt.Sprintf("the log has %d bytes, at most %d are kept", total, w.o.TotalBytes)
	}
	if age := now.Sub(w.files[0].modified); w.o.Age > 0 && age > w.o.Age {
		return fmt.Sprintf("its last entry is older than %v", w.o.Age)
	}
	return ""
}

func (w *writer) remove(why string, now time.Time) error {
	oldest := w.files[0]
	name := fileName(oldest.first)
	last := beforeFirst(filepath.Join(w.dir, fileName(w.files[1].first)), w.files[1])
	l, err := toLine(note(NoteRemove, name, why, removal{First: oldest.first, Last: last.Number, Hash: last.Hash}))
	if err != nil {
		return err
	}
	if err := w.append([]line{l}, now); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(w.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit log: %w", err)
	}
	w.files = w.files[1:]
	return syncDir(w.dir)
}

// beforeFirst is what the first entry of a file says of the one before it.
func beforeFirst(path string, f logFile) Anchor {
	e, err := firstEntry(path)
	if err != nil {
		return Anchor{Number: f.first - 1} // Verify will find that file wrong all the same
	}
	return Anchor{e.Number - 1, e.Prev}
}

func firstEntry(path string) (Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	text, _, _, err := newLineReader(f).next()
	if err != nil {
		return Entry{}, err
	}
	return parseLine(text)
}

// anchor writes the anchor, if the log has grown since.
func (w *writer) anchor() error {
	a := Anchor{w.number, w.hash}
	if w.anchored != nil && a == *w.anchored {
		return nil
	}
	if err := writeAnchor(w.dir, a); err != nil {
		return err
	}
	w.anchored = &a
	return nil
}
