// Package pebble is the default engine of one node: a journal that is a log of
// segment files, and a KV that is Pebble. Begin with [Open].
package pebble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

// Durability says what "durable" means.
type Durability int

const (
	// Fsync: on disk. It survives the loss of power.
	Fsync Durability = iota
	// OS: with the operating system. It survives the end of the process; a loss of
	// power takes the last seconds with it.
	OS
)

// Options are what may be chosen. The zero value is good.
type Options struct {
	Durability Durability
	// FS is the file system; nil: the real one.
	FS vfs.FS
	// Logger gets what an operator should know; nil: nothing is logged.
	Logger *slog.Logger
	// SegmentBytes is how large a file of the journal becomes, 0: 64 MiB. At least
	// 64 KiB.
	SegmentBytes int64
}

const segmentMin = 64 << 10

// Validate says which field is wrong.
func (o Options) Validate() error {
	if o.Durability != Fsync && o.Durability != OS {
		return fmt.Errorf("durability %d, expected Fsync or OS", o.Durability)
	}
	if o.SegmentBytes != 0 && o.SegmentBytes < segmentMin {
		return fmt.Errorf("segments of %d bytes, expected at least %d", o.SegmentBytes, segmentMin)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.SegmentBytes = cmp.Or(o.SegmentBytes, segmentDefault)
	return o
}

// Report is what a look at a data directory found.
type Report struct {
	// First and Next are the journal's Span, Bytes is the data in its records.
	First, Next store.Pos
	Bytes       int64
	// TornBytes belonged to a record whose Append had not returned when the
	// process or the power went. They don't count.
	TornBytes int64
	// Damage is where the journal can't be read; nil: nowhere. Open returns it as
	// its error.
	Damage *Damage
	// Cut is what was lost of a journal written with Durability OS when the power
	// went; nil: nothing.
	Cut *Damage
	// Keys and KVErr are what Check says of the KV.
	Keys  uint64
	KVErr error
	// Moved are the files that Repair put aside, and Aside is where they are.
	Moved []string
	Aside string
}

func (s *survey) report() Report {
	r := Report{First: s.first(), Next: s.next(), Bytes: s.bytes(), Damage: s.damage, Cut: s.cut}
	if n := len(s.segments); n > 0 {
		r.TornBytes = s.segments[n-1].torn
	}
	return r
}

// Engine is a data directory in use.
type Engine struct {
	dir     string
	logger  *slog.Logger
	lock    io.Closer
	opened  Report
	journal *journal
	kv      *kv
	space   *space

	closing sync.Mutex // held while Close works
	closed  bool
	stop    chan struct{} // ends housekeeping
	workers sync.WaitGroup
}

// Open opens the data in dir, and begins it if there is none. It reads the whole
// journal. What was torn by a crash is cut and stands in Opened; if anything that
// was durable once can't be read, the error is store.ErrDamaged and says what to do.
func Open(dir string, o Options) (*Engine, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	o = o.withDefaults()
	e, err := open(dir, o)
	var damage *Damage
	if errors.As(err, &damage) {
		return nil, fmt.Errorf("open the store in %s: %w: see more with `fairlead store check --data %s`; go on without these records with `fairlead store repair --data %s`, or restore a backup", dir, err, dir, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	return e, nil
}

func open(dir string, o Options) (_ *Engine, err error) {
	if err := makeDir(o.FS, dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(o.FS, dir)
	if err != nil {
		return nil, err
	}
	e := &Engine{dir: dir, logger: o.Logger, lock: lock, stop: make(chan struct{}), space: newSpace(o.FS, dir)}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.release())
		}
	}()
	if err := openFormat(o.FS, dir, migrations); err != nil {
		return nil, err
	}
	if err := e.openJournal(o); err != nil {
		return nil, err
	}
	if e.kv, err = openKV(o, o.FS.PathJoin(dir, kvDir), e.space); err != nil {
		return nil, err
	}
	e.workers.Go(e.housekeeping)
	return e, nil
}

func (e *Engine) openJournal(o Options) error {
	dir := o.FS.PathJoin(e.dir, journalDir)
	if err := makeDir(o.FS, dir); err != nil {
		return err
	}
	j := &journal{fs: o.FS, dir: dir, durability: o.Durability, segmentMax: o.SegmentBytes, logger: o.Logger, space: e.space.room}
	s, err := openJournal(context.Background(), j)
	if err != nil {
		return err
	}
	e.journal, e.opened = j, s.report()
	if s.cut != nil {
		o.Logger.Warn("the journal was written without fsync, and its end was lost with the power",
			"from", s.cut.From, "to", s.cut.To, "file", s.cut.File, "offset", s.cut.Offset)
	}
	if e.opened.TornBytes > 0 {
		o.Logger.Warn("the journal ends with an unfinished record, which was never acknowledged: it is cut off",
			"bytes", e.opened.TornBytes, "record", s.next(), "file", relative(s.segments[len(s.segments)-1].name))
	}
	return nil
}

// Opened is what Open found.
func (e *Engine) Opened() Report { return e.opened }

// Journal, KV and Bus are the parts of the Engine.
func (e *Engine) Journal() store.Journal { return e.journal }
func (e *Engine) KV() store.KV           { return e.kv }
func (e *Engine) Bus() store.Bus         { return noBus{} }

// Stats implements [store.Engine]. Sizes on disk may be a second old.
func (e *Engine) Stats() store.Stats {
	s := store.Stats{FreeBytes: e.space.freeBytes()}
	e.journal.stats(&s)
	e.kv.stats(&s)
	return s
}

// housekeepingEvery is short enough for a key to be gone within a second after its
// TTL, and for a KV that has failed to come back by itself.
const housekeepingEvery = 250 * time.Millisecond

func (e *Engine) housekeeping() {
	t := time.NewTicker(housekeepingEvery)
	defer t.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-t.C:
			e.space.refresh()
			e.kv.housekeep(time.Now())
		}
	}
}

// Close implements [store.Engine].
func (e *Engine) Close() error {
	e.closing.Lock()
	defer e.closing.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	return e.release()
}

// release closes what is open; not all is if Open fails.
func (e *Engine) release() error {
	close(e.stop)
	e.workers.Wait()
	var errs []error
	if e.journal != nil {
		errs = append(errs, e.journal.close())
	}
	if e.kv != nil {
		errs = append(errs, e.kv.close())
	}
	return errors.Join(append(errs, e.lock.Close())...)
}

// noBus is the Bus of a node that is alone.
type noBus struct{}

var errAlone = errors.New("a single node has nobody to speak to")

func (noBus) Send(context.Context, store.NodeID, []byte) error { return errAlone }
func (noBus) Request(context.Context, store.NodeID, []byte) ([]byte, error) {
	return nil, errAlone
}
func (noBus) Nodes() []store.NodeID { return nil }
