package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	namePrefix   = "audit-"
	nameSuffix   = ".jsonl"
	nameDigits   = 20
	anchorName   = "anchor"
	anchorTemp   = "anchor.new"
	fileMode     = 0o600
	dirMode      = 0o700
	readerBytes  = 64 << 10
	anchorMax    = 256 // bytes
	relistingMax = 8   // times that a reader begins again because a file was removed
)

// logFile is one file of a log.
type logFile struct {
	first    uint64 // the number of its first entry, which its name tells
	size     int64
	modified time.Time
}

func fileName(first uint64) string {
	return fmt.Sprintf("%s%0*d%s", namePrefix, nameDigits, first, nameSuffix)
}

// parseName returns false for a name that no file of a log has.
func parseName(name string) (first uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, namePrefix)
	digits, ends := strings.CutSuffix(digits, nameSuffix)
	if !ok || !ends || len(digits) != nameDigits {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0 && fileName(first) == name
}

// listFiles returns the files of a log in order.
func listFiles(dir string) ([]logFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	var files []logFile
	for _, e := range entries {
		first, ok := parseName(e.Name())
		if !ok {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed because of a limit, just now
		}
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		files = append(files, logFile{first: first, size: info.Size(), modified: info.ModTime()})
	}
	slices.SortFunc(files, func(a, b logFile) int { return cmp.Compare(a.first, b.first) })
	return files, nil
}

// lineReader reads lines of any bytes. It keeps at most lineMax of each: no entry
// is longer, so that what is longer is none.
type lineReader struct {
	r    *bufio.Reader
	text []byte
}

const lineMax = entryBytesMax + 1

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, readerBytes)}
}

// next returns a line without its break, valid until the next call, how many bytes
// it takes in the file, and whether it has a break. The error is io.EOF at the end.
func (l *lineReader) next() (text []byte, size int64, complete bool, err error) {
	l.text = l.text[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		size += int64(len(part))
		l.text = append(l.text, part[:min(len(part), lineMax-min(lineMax, len(l.text)))]...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(l.text, []byte("\n")), size, true, nil
		case errors.Is(err, io.EOF) && size > 0:
			return l.text, size, false, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, 0, false, err
		}
	}
}

// torn reports whether a last line without a break is what a crash leaves: the
// beginning of an entry, or nothing readable. An entry that something follows is
// not: a break would have followed.
func torn(text []byte) bool {
	for at := 0; ; at++ {
		i := bytes.Index(text[at:], []byte(hashField))
		if i < 0 {
			return true
		}
		at += i
		if at+hashTail >= len(text) {
			return true
		}
		if stated, computed, err := hashes(text[:at+hashTail]); err == nil && stated == computed {
			return false
		}
	}
}

// Anchor is number and hash of an entry, or 0 and zeros before the first. Kept elsewhere, it shows later that the
// log has not been rewritten since.
type Anchor struct {
	Number uint64 `json:"n"`
	Hash   Hash   `json:"hash"`
}

// ReadAnchor returns the anchor of a log. Its error is fs.ErrNotExist if there is
// none.
func ReadAnchor(dir string) (Anchor, error) {
	f, err := os.Open(filepath.Join(dir, anchorName))
	if err != nil {
		return Anchor{}, fmt.Errorf("audit log: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, anchorMax))
	if err != nil {
		return Anchor{}, fmt.Errorf("audit log: %w", err)
	}
	a, err := parseAnchor(text)
	if err != nil {
		return Anchor{}, fmt.Errorf("audit log: %s: %w", anchorName, err)
	}
	return a, nil
}

func parseAnchor(text []byte) (Anchor, error) {
	var a Anchor
	err := json.Unmarshal(text, &a)
	if err != nil || !bytes.Equal(text, a.text()) || a.Number == 0 && a.Hash != (Hash{}) {
		return Anchor{}, fmt.Errorf(`%q: expected {"n":NUMBER,"hash":"HASH"} and a line break`, text)
	}
	return a, nil
}

func (a Anchor) text() []byte {
	return fmt.Appendf(nil, "{\"n\":%d,\"hash\":\"%s\"}\n", a.Number, a.Hash)
}

// writeAnchor replaces the anchor, whole or not at all.
func writeAnchor(dir string, a Anchor) error {
	temp := filepath.Join(dir, anchorTemp)
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fileMode)
	if err != nil {
		return fmt.Errorf("audit anchor: %w", err)
	}
	_, err = f.Write(a.text())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, filepath.Join(dir, anchorName))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("audit anchor: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkContext lets long readings be given up.
func checkContext(ctx context.Context, lines int) error {
	if lines%256 != 0 {
		return nil
	}
	return ctx.Err()
}
