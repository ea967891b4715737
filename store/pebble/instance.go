package pebble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

const (
	// cacheBytes and memtableBytes are small: a broker keeps what it works with in
	// its own memory, and reads the KV at a start, for sessions that come back and
	// for retained messages. A memtable of 16 MiB holds some seconds of what is
	// spilled, and four of them, the most there can be before writers wait, are
	// still less than the cache.
	cacheBytes    = 64 << 20
	memtableBytes = 16 << 20
	memtablesMax  = 4
	// levelZeroMax is out of reach. Pebble would let writers wait at 12 until
	// compactions have caught up, and an instance that is cut off never does.
	levelZeroMax = 1000
	openFilesMax = 500

	// reopenEvery is how often a KV that has failed is tried again.
	reopenEvery = time.Second
)

// An instance is one opening of the directory by Pebble. After an error of a write
// it is given up, and the directory is opened anew; see cutoff.
//
// What can't be helped: a disk that hangs in a call makes the reopening, and Close,
// hang as well. After a panic within Pebble its locks may be held for ever, so such
// an instance isn't closed, and its memory and goroutines stay until the process
// ends. And a change whose call returned an error may be there after the reopening,
// or not: the bytes may have reached the disk before the error.
//
// While it can't be opened, reads go on through an instance that writes nothing, if
// that much works: on a full disk, or one that has become read-only.
type instance struct {
	db       *pebble.DB
	fs       *cutoff
	reader   bool           // writes nothing; its fs was cut off from the start
	users    sync.WaitGroup // calls under way
	panicked atomic.Bool
}

// failed is why what the instance says doesn't count, or nil.
func (i *instance) failed() error {
	if i.reader {
		return nil
	}
	return i.fs.failed()
}

// openInstance opens the directory.
func (k *kv) openInstance() (_ *instance, err error) {
	fs := &cutoff{FS: k.fs, written: &k.written, onFail: func(err error) {
		k.logger.Error("the KV has failed and will be opened anew", "err", err)
	}}
	inst := &instance{fs: fs}
	logger := pebbleLogger{k.logger, fs}
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref()
	o := &pebble.Options{
		FS:                          fs,
		Cache:                       cache,
		MemTableSize:                memtableBytes,
		MemTableStopWritesThreshold: memtablesMax,
		L0StopWritesThreshold:       levelZeroMax,
		MaxOpenFiles:                openFilesMax,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      logger,
		EventListener: &pebble.EventListener{
			// The default would call Fatalf. A new instance would find the same, so
			// this one goes on: what concerns the bad block gets an error.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				k.logger.Error("the KV is damaged: restore a backup, or delete what is affected", "file", info.Path, "err", info.Details)
			},
			BackgroundError: logger.background,
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("open the KV: Pebble panicked: %v", r)
		}
	}()
	inst.db, err = pebble.Open(k.dir, o)
	if failed := fs.failed(); failed != nil {
		if inst.db != nil {
			err = errors.Join(failed, inst.db.Close())
		} else {
			err = failed
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the KV: %w", err)
	}
	return inst, nil
}

// openReader opens the directory without changing anything in it.
func openReader(fs vfs.FS, dir string) (_ *instance, err error) {
	off := &cutoff{FS: fs, onFail: func(error) {}}
	off.fail(errors.New("opened for reading"))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("open the KV for reading: Pebble panicked: %v", r)
		}
	}()
	db, err := pebble.Open(dir, &pebble.Options{
		FS: off, ReadOnly: true, CacheSize: cacheBytes, MaxOpenFiles: openFilesMax,
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             pebbleLogger{slog.New(slog.DiscardHandler), off},
		EventListener:      &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}},
	})
	if err != nil {
		return nil, fmt.Errorf("open the KV for reading: %w", err)
	}
	return &instance{db: db, fs: off, reader: true}, nil
}

// end closes the instance once nobody uses it.
func (i *instance) end() error {
	i.users.Wait()
	if i.panicked.Load() {
		return nil
	}
	err := i.db.Close()
	if failed := i.failed(); failed != nil {
		return failed
	}
	return err
}

// acquire returns the present instance, and opens it anew if it has failed. Call
// users.Done after use. While somebody opens it, others get the failure instead of
// waiting for a disk that may hang.
func (k *kv) acquire(write bool) (*instance, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.retireLocked(); err != nil {
		return nil, err
	}
	if k.inst == nil && !k.opening && time.Since(k.tried) >= time.Duration(k.every.Load()) {
		k.opening, k.tried = true, time.Now()
		k.ending.Add(1) // close waits for it
		k.mu.Unlock()
		k.reopen()
		k.mu.Lock()
	}
	inst := k.inst
	if inst == nil && !write {
		inst = k.reader
	}
	if k.closed {
		return nil, store.ErrClosed
	}
	if inst == nil {
		return nil, fmt.Errorf("the KV is out of service, and tried again every %v: %w", reopenEvery, k.failure)
	}
	inst.users.Add(1)
	return inst, nil
}

// retireLocked gives up the present instance if it has failed. It ends in the
// background: a call that uses it still may take its time.
func (k *kv) retireLocked() error {
	if k.closed {
		return store.ErrClosed
	}
	if k.inst == nil || k.inst.failed() == nil {
		return nil
	}
	old := k.inst
	k.inst, k.failure, k.retired = nil, old.failed(), old.fs
	k.ending.Go(func() { old.end() }) // its error is the one we know
	k.feed.interrupt()
	return nil
}

// reopen tries to open the directory anew. Only one call does at a time.
func (k *kv) reopen() {
	defer k.ending.Done()
	k.retired.drain()
	inst, err := k.openInstance()
	if err == nil {
		if err = k.load(inst); err != nil {
			inst.end() // load's error is the one to show
		}
	}
	k.mu.Lock()
	reader := k.reader
	k.mu.Unlock()
	if err != nil && reader == nil {
		reader, _ = openReader(k.fs, k.dir) // if not, the failure stands
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opening = false
	if err != nil {
		k.failure, k.reader = err, reader
		return
	}
	if reader != nil {
		k.reader = nil
		k.ending.Go(func() { reader.end() }) // it was only read
	}
	k.inst, k.failure = inst, nil
	k.logger.Info("the KV works again")
}

// use runs f on an instance. An error of the instance is the result, whatever f
// says.
func (k *kv) use(ctx context.Context, write bool, f func(*instance) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	inst, err := k.acquire(write)
	if err != nil {
		return err
	}
	defer inst.users.Done()
	defer func() {
		if r := recover(); r != nil {
			inst.panicked.Store(true)
			inst.fs.fail(fmt.Errorf("panic in Pebble: %v", r))
		}
		if failed := inst.failed(); failed != nil {
			err = fmt.Errorf("the KV has failed: %w", failed)
		}
	}()
	return damagedIf(f(inst))
}

// damagedIf gives Pebble's word for damage the one of package store.
func damagedIf(err error) error {
	if err != nil && pebble.IsCorruptionError(err) {
		return fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	return err
}

// pebbleLogger is what an instance says. Nothing it says after its failure matters.
type pebbleLogger struct {
	to *slog.Logger
	fs *cutoff
}

func (l pebbleLogger) Infof(format string, args ...any) {
	if l.fs.failed() == nil && l.to.Enabled(context.Background(), slog.LevelDebug) {
		l.to.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	if l.fs.failed() == nil {
		l.to.Warn("pebble: " + fmt.Sprintf(format, args...))
	}
}

// Fatalf returns. What Pebble does after it is cut off from the disk.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.fs.fail(fmt.Errorf("pebble: "+format, args...))
}

func (l pebbleLogger) background(err error) {
	l.Errorf("in the background: %v", err)
}
