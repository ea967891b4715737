package ca

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Cause is why a certificate was revoked [RFC 5280 5.3.1].
type Cause int

// The causes that apply to devices.
const (
	Unspecified          Cause = 0
	KeyCompromise        Cause = 1
	Superseded           Cause = 4
	CessationOfOperation Cause = 5
	PrivilegeWithdrawn   Cause = 9
)

var causes = map[Cause]string{
	Unspecified:          "unspecified",
	KeyCompromise:        "key compromise",
	Superseded:           "superseded",
	CessationOfOperation: "cessation of operation",
	PrivilegeWithdrawn:   "privilege withdrawn",
}

func (c Cause) String() string {
	if s, ok := causes[c]; ok {
		return s
	}
	return "cause " + strconv.Itoa(int(c))
}

// Revocation is one certificate that is not valid any more.
type Revocation struct {
	Serial Serial
	Cause  Cause
	At     time.Time // when
	// NotAfter is the certificate's own end: from a day later on nobody needs the
	// revocation, and it is forgotten. Zero: it is kept for ever.
	NotAfter time.Time
}

// Revoke makes certificates of this CA invalid, all with one write. When it returns
// nil that is on disk. With an error the disk could not be written: then it holds
// until the process ends, and has to be repeated. A certificate that is revoked
// already stays as it is. [Options.Changed] is called before it returns.
func (a *Authority) Revoke(list ...Revocation) error {
	for i, r := range list {
		serial, err := ParseSerial(string(r.Serial))
		if err != nil {
			return fmt.Errorf("revoke: %w", err)
		}
		if _, ok := causes[r.Cause]; !ok {
			return fmt.Errorf("revoke %s: cause %d is none that applies to a device", serial, r.Cause)
		}
		if list[i].Serial != serial {
			list = slices.Clone(list)
			list[i].Serial = serial
		}
	}
	err := a.revoked.add(list)
	a.o.Changed()
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	return nil
}

// Revoked is when and why the certificate was revoked.
func (a *Authority) Revoked(s Serial) (Revocation, bool) { return a.revoked.get(s) }

// Revocations are all certificates of this CA that are revoked, oldest first.
func (a *Authority) Revocations() []Revocation { return a.revoked.all() }

// revocations is the set of revoked certificates and its log. One more is one more
// line, so that it costs the same however many there are; several at once, and a log
// with lines of no use any more, are written as a new file.
type revocations struct {
	mu      sync.RWMutex // guards set and version
	set     map[Serial]Revocation
	version uint64 // counts changes

	writing sync.Mutex // guards what follows; never taken under mu
	dir     *dir
	log     *os.File
	size    int64        // of what is known to be on disk as a whole
	pending []Revocation // in force, but not on disk
}

// openRevocations reads the log.
func (a *Authority) openRevocations() error {
	r := &a.revoked
	r.set, r.dir = make(map[Serial]Revocation), a.dir
	list, dropped, err := a.readLog()
	if err != nil {
		return err
	}
	now := a.o.Now()
	for _, v := range list {
		if !v.over(now) {
			r.set[v.Serial] = v
		}
	}
	if dropped || len(r.set) < len(list) || !a.dir.has(revokedName) {
		return r.rewrite()
	}
	return r.open()
}

// readLog reads the log. A last line without its end is what a crash left of a
// revocation that was never confirmed; it is dropped, and said.
func (a *Authority) readLog() (list []Revocation, dropped bool, err error) {
	text, err := a.dir.read(revokedName)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	list, rest, err := parseLog(text)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w: put it back from a backup; without that line its certificate would be valid again", revokedName, err)
	}
	if len(rest) > 0 {
		a.report.event(Event{What: revokedName, Text: fmt.Sprintf("dropped %d bytes of a revocation that a crash cut off before it was confirmed", len(rest))})
	}
	return list, len(rest) > 0, nil
}

// over reports whether the certificate has ended of itself.
func (r Revocation) over(now time.Time) bool {
	return !r.NotAfter.IsZero() && now.After(r.NotAfter.Add(day))
}

func (r *revocations) get(s Serial) (Revocation, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, ok := r.set[s]
	return v, ok
}

// at is a number that is another one after each change.
func (r *revocations) at() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.version
}

func (r *revocations) all() []Revocation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.set), func(a, b Revocation) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(string(a.Serial), string(b.Serial))
	})
}

// add puts them in force first: when in doubt nobody gets in.
func (r *revocations) add(list []Revocation) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.pending = append(r.pending, r.put(list)...)
	if len(r.pending) == 0 {
		return nil
	}
	if err := r.write(r.pending); err != nil {
		return err
	}
	r.pending = nil
	return nil
}

// put adds what is not there yet, and returns it.
func (r *revocations) put(list []Revocation) (fresh []Revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range list {
		if _, ok := r.set[v.Serial]; !ok {
			r.set[v.Serial] = v
			fresh = append(fresh, v)
		}
	}
	r.version += uint64(len(fresh))
	return fresh
}

// write appends one line. A crash may leave a part of it; with several lines the
// parts could be any, and look like damage.
func (r *revocations) write(list []Revocation) error {
	if len(list) > 1 {
		return r.rewrite()
	}
	line := appendLog(nil, list)
	if err := r.dir.step("append", revokedName); err != nil {
		return err
	}
	// At a place, not at the end: a failed attempt may have left something there.
	if _, err := r.log.WriteAt(line, r.size); err != nil {
		return err
	}
	if err := r.log.Sync(); err != nil {
		return err
	}
	r.size += int64(len(line))
	return nil
}

// rewrite replaces the log by one with what is in force.
func (r *revocations) rewrite() error {
	if err := r.dir.write(revokedName, appendLog(nil, r.all()), 0o600); err != nil {
		return err
	}
	return r.open()
}

// open opens the log to append to it.
func (r *revocations) open() error {
	f, err := os.OpenFile(r.dir.file(revokedName), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	err = r.close()
	r.log, r.size = f, info.Size()
	return err
}

func (r *revocations) close() error {
	if r.log == nil {
		return nil
	}
	return r.log.Close()
}

// The log has a line for each revocation: the version of the format, the serial
// number, the cause, when, and the certificate's end in seconds since 1970 or 0, and
// the CRC-32C of the line up to there.
const logVersion = "1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendLog(dst []byte, list []Revocation) []byte {
	for _, v := range list {
		line := fmt.Appendf(nil, "%s %s %d %d %d ", logVersion, v.Serial, v.Cause, v.At.Unix(), unixOrZero(v.NotAfter))
		dst = append(dst, line...)
		dst = fmt.Appendf(dst, "%08x\n", crc32.Checksum(line, castagnoli))
	}
	return dst
}

func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// parseLog reads the lines of a log. The rest is what a crash may have left of the
// last line: it has no end, or holes where its bytes did not reach the disk.
func parseLog(text []byte) (list []Revocation, rest []byte, err error) {
	for n := 1; ; n++ {
		line, after, whole := bytes.Cut(text, []byte("\n"))
		if !whole || len(after) == 0 && bytes.IndexByte(line, 0) >= 0 {
			return list, text, nil
		}
		v, err := parseLine(string(line))
		if err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", n, err)
		}
		list, text = append(list, v), after
	}
}

func parseLine(line string) (Revocation, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 6 || fields[0] != logVersion {
		return Revocation{}, fmt.Errorf("not a revocation of format %s", logVersion)
	}
	sum := fields[5]
	if want := fmt.Sprintf("%08x", crc32.Checksum([]byte(strings.TrimSuffix(line, sum)), castagnoli)); sum != want {
		return Revocation{}, fmt.Errorf("checksum %.8q, expected %s", sum, want)
	}
	serial, err := ParseSerial(fields[1])
	if err != nil {
		return Revocation{}, err
	}
	var numbers [3]int64
	for i, f := range fields[2:5] {
		if numbers[i], err = strconv.ParseInt(f, 10, 64); err != nil {
			return Revocation{}, err
		}
	}
	v := Revocation{Serial: serial, Cause: Cause(numbers[0]), At: time.Unix(numbers[1], 0).UTC()}
	if numbers[2] != 0 {
		v.NotAfter = time.Unix(numbers[2], 0).UTC()
	}
	return v, nil
}
