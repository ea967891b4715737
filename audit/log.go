package audit

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Log is an open log. All its methods may be called at the same time. A directory
// has one Log at a time; the lock on the data directory sees to that.
type Log struct {
	w     writer // belongs to run
	every time.Duration
	wake  chan struct{}
	stop  chan struct{}
	ended sync.WaitGroup

	mu       sync.Mutex // guards all below
	closed   bool
	notes    []line // what Open has found, until it is written
	acts     []*act
	refusals []line
	folds    map[foldKey]*fold
	sources  map[string]int // refusals told apart by address
	nextFold time.Time      // when what was counted is written; zero: nothing is counted
	lost     uint64         // refusals that will have no entry
	failed   uint64         // acts that have none
	stats    Stats
}

// Stats is how a Log fares.
type Stats struct {
	Last     uint64 // the number of the last entry
	Bytes    int64  // of all files
	Acts     uint64 // written since the start
	Refusals uint64 // of all calls of Refuse since the start
	Lost     uint64 // refusals without an entry, since the start
	Failed   uint64 // acts that could not be written, since the start
	Err      error  // why the latest write failed; nil: it did not
}

// act is an entry that somebody waits for.
type act struct {
	line line
	done chan error // has room for one
}

// Open opens the log in a directory, and makes the directory if there is none. It
// reads the latest file, or those since the anchor was written. What a crash has
// left is cut off, damage is left as it is, and both are noted in the log. A log
// that can be read but not written to, because the disk is full, is opened: its
// acts fail.
func Open(dir string, o Options) (*Log, error) { return open(dir, o, openFile) }

func open(dir string, o Options, openFile func(string) (file, error)) (*Log, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	o = o.withDefaults()
	l := &Log{
		w:     writer{dir: dir, o: o, open: openFile, logger: o.Logger},
		every: o.FoldEvery,
		wake:  make(chan struct{}, 1), stop: make(chan struct{}),
		folds: make(map[foldKey]*fold), sources: make(map[string]int),
	}
	notes, err := l.w.recover(context.Background())
	if err != nil {
		return nil, err
	}
	for _, n := range notes {
		o.Logger.Warn("audit log", "note", n.Action, "object", n.Object, "reason", n.Reason)
		x, err := toLine(n)
		if err != nil {
			return nil, err
		}
		l.notes = append(l.notes, x)
	}
	now := time.Now()
	l.turn(now, false)
	l.keep(now, l.Stats().Err)
	l.anchor(now)
	l.ended.Go(l.run) // ends with Close
	return l, nil
}

// Act writes an entry and returns once it is durable. If it returns an error the act
// must not be done; the entry may be in the log all the same, if ctx ended first or
// if the process ends before a failed write could be undone. Acts of several
// goroutines share one write.
func (l *Log) Act(ctx context.Context, e Entry) error {
	e.Kind = Act
	x, err := toLine(e)
	if err != nil {
		return err
	}
	if text, _, err := appendLine(nil, x); err != nil {
		return fmt.Errorf("audit %s: %w", e.Action, err)
	} else if room := entryBytesMax - numberRoom; len(text) > room {
		return fmt.Errorf("audit %s: an entry of %d bytes, expected at most %d: write what has changed, or a hash, instead of the whole", e.Action, len(text), room)
	}
	a := &act{line: x, done: make(chan error, 1)}
	if err := l.put(a); err != nil {
		return err
	}
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("audit %s: %w", e.Action, l.withdraw(ctx, a))
	}
}

// numberRoom is what number and time may add to an entry of which they are unset.
const numberRoom = 64

func (l *Log) put(a *act) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if len(l.acts) >= actsMax {
		return ErrBusy
	}
	l.acts = append(l.acts, a)
	l.wakeUp()
	return nil
}

// withdraw takes an act back whose caller waits no more, if it isn't being written.
func (l *Log) withdraw(ctx context.Context, a *act) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acts = slices.DeleteFunc(l.acts, func(x *act) bool { return x == a })
	return ctx.Err()
}

func (l *Log) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// foldKey tells kinds of refusals apart.
type foldKey struct{ host, name, action, reason string }

// several stands for what one address does beyond sourceMax.
const several = "several"

type fold struct {
	line  line
	count uint64 // since it was written last
	since time.Time
}

// Refuse notes a refusal. It does no I/O and never waits for any. The first of its
// kind (the address without its port, the actor's name, action and reason) is
// written at once; those that follow are counted, and written as one entry each
// FoldEvery. What has no room is counted too, and noted after FoldEvery. Texts are
// cut at 512 bytes, and Before and After are left out: strangers cause refusals.
func (l *Log) Refuse(e Entry) {
	e = short(e)
	host := hostOf(e.Source)
	key := foldKey{host, e.Actor.Name, e.Action, e.Reason}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Refusals++
	now := time.Now()
	if l.closed {
		l.loseLocked(1, now)
		return
	}
	if l.folds[key] == nil && l.sources[host] >= sourceMax {
		key = foldKey{host: host, reason: several}
		e = Entry{Kind: Refusal, Source: host, Action: several, Reason: "more kinds of refusals than are told apart"}
	}
	if f := l.folds[key]; f != nil {
		if f.count == 0 {
			f.since = now
		}
		f.count++
		return
	}
	x, err := toLine(e)
	if err != nil || len(l.folds) >= refusalsMax {
		l.loseLocked(1, now)
		return
	}
	l.folds[key] = &fold{line: x}
	l.sources[host]++
	l.refusals = append(l.refusals, x)
	l.armLocked(now)
	l.wakeUp()
}

// loseLocked counts refusals that will have no entry of their own.
func (l *Log) loseLocked(n uint64, now time.Time) {
	l.lost += n
	l.stats.Lost += n
	l.armLocked(now)
}

func (l *Log) armLocked(now time.Time) {
	if l.nextFold.IsZero() {
		l.nextFold = now.Add(l.every)
		l.wakeUp() // run sets its timer
	}
}

// short bounds what a peer has a hand in.
func short(e Entry) Entry {
	e.Kind, e.Count = Refusal, 0
	for _, s := range []*string{&e.Actor.Name, &e.Actor.Role, &e.Actor.How, &e.Source, &e.Action, &e.Object, &e.Reason} {
		*s = shortText(*s)
	}
	e.Before, e.After = nil, nil
	return e
}

func shortText(s string) string {
	if len(s) <= textMax {
		return s
	}
	end := textMax
	for end > textMax-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return strings.Clone(s[:end]) + "..."
}

// hostOf is an address without its port, which is another for each connection.
func hostOf(source string) string {
	if host, _, err := net.SplitHostPort(source); err == nil {
		return host
	}
	return source
}

// Stats says how the Log fares. It does no I/O.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Dir is where the log is, for Verify and List.
func (l *Log) Dir() string { return l.w.dir }

// Close writes what is counted and waits until all is durable. Later acts fail with
// ErrClosed. The error says that something could not be written.
func (l *Log) Close() error {
	l.mu.Lock()
	was := l.closed
	l.closed = true
	l.mu.Unlock()
	if !was {
		close(l.stop)
	}
	l.ended.Wait()
	return l.Stats().Err
}

// run writes. It is the only one who does I/O.
func (l *Log) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer l.w.close()
	var anchorAt time.Time // zero: the anchor is as the log
	for {
		stopping := false
		timer.Reset(l.pause(anchorAt))
		select {
		case <-l.wake:
		case <-timer.C:
		case <-l.stop:
			stopping = true
		}
		now := time.Now()
		if l.turn(now, stopping) && anchorAt.IsZero() {
			anchorAt = now.Add(anchorEvery)
		}
		if !anchorAt.IsZero() && (stopping || !now.Before(anchorAt)) {
			anchorAt = l.anchor(now)
		}
		if stopping {
			l.mend()
			return
		}
	}
}

// mend takes away at the end what a failed write has left.
func (l *Log) mend() {
	if err := l.w.repair(); err != nil {
		l.w.logger.Error("audit log", "err", err)
	}
}

// pause is how long run may sleep.
func (l *Log) pause(anchorAt time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := time.Hour
	for _, at := range []time.Time{anchorAt, l.nextFold} {
		if !at.IsZero() {
			d = min(d, time.Until(at))
		}
	}
	return max(d, 0)
}

// anchor returns when to try again.
func (l *Log) anchor(now time.Time) time.Time {
	if err := l.w.anchor(); err != nil {
		l.w.logger.Error("audit log", "err", err)
		l.mu.Lock()
		l.stats.Err = err
		l.mu.Unlock()
		return now.Add(anchorEvery)
	}
	return time.Time{}
}

// turn writes everything that is there, and reports whether the log has grown.
func (l *Log) turn(now time.Time, stopping bool) (grown bool) {
	for {
		b := l.take(now, stopping)
		if len(b.lines) == 0 {
			return grown
		}
		err := l.w.append(b.lines, now)
		l.answer(b, err, now)
		l.keep(now, err)
		if err != nil {
			return grown
		}
		grown = true
	}
}

// batch is what one write holds.
type batch struct {
	lines    []line
	notes    []line
	acts     []*act
	refusals uint64 // that the lines stand for
	lost     uint64 // that a note tells of
	failed   uint64 // likewise
}

// take gathers what is to be written: what the log has to say of itself, then acts,
// then refusals.
func (l *Log) take(now time.Time, stopping bool) batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	due := stopping || !l.nextFold.IsZero() && !now.Before(l.nextFold)
	if due {
		l.foldLocked(now)
	}
	b := batch{notes: l.notes, lines: slices.Clone(l.notes)}
	l.notes = nil
	if l.failed > 0 && (len(l.acts) > 0 || len(l.refusals) > 0 || due) {
		b.failed, l.failed = l.failed, 0
		b.lines = append(b.lines, countNote(NoteFailed, b.failed, "acts that could not be written, and were therefore refused"))
	}
	if l.lost > 0 && due {
		b.lost, l.lost = l.lost, 0
		b.lines = append(b.lines, countNote(NoteLost, b.lost, "refusals that have no entry of their own"))
	}
	n := min(len(l.acts), batchMax)
	b.acts = slices.Clone(l.acts[:n])
	l.acts = slices.Delete(l.acts, 0, n)
	for _, a := range b.acts {
		b.lines = append(b.lines, a.line)
	}
	for _, r := range l.refusals {
		b.refusals += max(r.Count, 1)
	}
	b.lines = append(b.lines, l.refusals...)
	l.refusals = nil
	return b
}

func countNote(action string, n uint64, reason string) line {
	return line{Kind: Note, Actor: self, Action: action, Count: n, Reason: reason}
}

// foldLocked turns what was counted into entries. A kind that has not come again is
// forgotten.
func (l *Log) foldLocked(now time.Time) {
	var lines []line
	for key, f := range l.folds {
		if f.count == 0 {
			delete(l.folds, key)
			if l.sources[key.host]--; l.sources[key.host] <= 0 {
				delete(l.sources, key.host)
			}
			continue
		}
		x := f.line
		x.Count, x.Since = f.count, f.since.UTC().Round(0)
		lines = append(lines, x)
		f.count = 0
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Actor.Name, b.Actor.Name))
	})
	l.refusals = append(l.refusals, lines...)
	l.nextFold = time.Time{}
	if len(l.folds) > 0 {
		l.nextFold = now.Add(l.every)
	}
}

// answer tells those who wait, and counts.
func (l *Log) answer(b batch, err error, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.stats.Acts += uint64(len(b.acts))
	} else {
		l.notes = b.notes
		l.lost += b.lost
		l.loseLocked(b.refusals, now)
		l.failed += b.failed + uint64(len(b.acts))
		l.stats.Failed += uint64(len(b.acts))
	}
	for _, a := range b.acts {
		a.done <- err
	}
}

// keep minds the limits and the Stats after a write.
func (l *Log) keep(now time.Time, err error) {
	if err == nil && len(l.w.files) > 0 {
		err = l.w.limit(now)
	}
	if err != nil {
		l.w.logger.Error("audit log", "err", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Err = err
	l.stats.Last, l.stats.Bytes = l.w.number, 0
	for _, f := range l.w.files {
		l.stats.Bytes += f.size
	}
}
