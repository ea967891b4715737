package pebble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

// Check reads everything in a data directory that is not in use, and changes
// nothing. What it finds stands in the Report; the error is nil if all is well.
func Check(ctx context.Context, dir string, o Options, progress Progress) (Report, error) {
	o = o.withDefaults()
	lock, err := lockExisting(o.FS, dir)
	if err != nil {
		return Report{}, fmt.Errorf("check %s: %w", dir, err)
	}
	defer lock.Close()
	s, err := surveyJournal(ctx, o.FS, o.FS.PathJoin(dir, journalDir), progress)
	if err != nil {
		return Report{}, fmt.Errorf("check %s: %w", dir, err)
	}
	r := s.report()
	if _, err := o.FS.Stat(o.FS.PathJoin(dir, kvDir)); !errors.Is(err, fs.ErrNotExist) {
		r.Keys, r.KVErr = checkKV(ctx, o.FS, o.FS.PathJoin(dir, kvDir))
	}
	var found []error
	if r.Damage != nil {
		found = append(found, r.Damage)
	}
	if r.KVErr != nil {
		found = append(found, r.KVErr)
	}
	if len(found) > 0 {
		return r, fmt.Errorf("check %s: %w", dir, errors.Join(found...))
	}
	return r, nil
}

// lockExisting locks a directory that has data of our version in it.
func lockExisting(fsys vfs.FS, dir string) (io.Closer, error) {
	version, err := readFormat(fsys, dir)
	if err != nil {
		return nil, err
	}
	if version < 0 {
		return nil, fmt.Errorf("no %s there, so no data of this program: %w", formatFile, fs.ErrNotExist)
	}
	if version > formatVersion {
		return nil, fmt.Errorf("%s says version %d, and this program knows up to %d: %w", formatFile, version, formatVersion, store.ErrNewerFormat)
	}
	return lockDir(fsys, dir)
}

// checkKV reads each block of the KV, and compares its levels with each other.
func checkKV(ctx context.Context, fs vfs.FS, dir string) (keys uint64, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("check the KV: Pebble panicked: %v: %w", r, store.ErrDamaged)
		}
		if err != nil {
			err = fmt.Errorf("check the KV: %w", damagedIf(err))
		}
	}()
	inst, err := openReader(fs, dir)
	if err != nil {
		return 0, err
	}
	db := inst.db
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.CheckLevels(nil); err != nil {
		return 0, err
	}
	it, err := db.NewIterWithContext(ctx, nil)
	if err != nil {
		return 0, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		b, err := it.ValueAndErr()
		if err == nil && it.Key()[0] == spaceKey {
			_, err = parseValue(b)
			keys++
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return keys, errors.Join(err, it.Close())
		}
	}
	return keys, errors.Join(it.Error(), it.Close())
}

// Repair makes a damaged journal one that can be opened: it keeps what stands
// before the damage, puts the damaged segment and all behind it into
// journal/damaged-DATE, and deletes nothing. The Report says what is lost. A
// journal that is not damaged is left as it is. The KV is not repaired: Pebble
// can't, restore a backup.
//
// The next record takes the number of the first one lost. Whoever notes elsewhere
// which records it has seen must therefore compare that with Span: a note beyond
// the end means that records it knew are lost, and that new ones will bear their
// numbers. Tail refuses to begin there.
func Repair(ctx context.Context, dir string, o Options, now time.Time, progress Progress) (Report, error) {
	o = o.withDefaults()
	lock, err := lockExisting(o.FS, dir)
	if err != nil {
		return Report{}, fmt.Errorf("repair %s: %w", dir, err)
	}
	defer lock.Close()
	journal := o.FS.PathJoin(dir, journalDir)
	s, err := surveyJournal(ctx, o.FS, journal, progress)
	if err != nil {
		return Report{}, fmt.Errorf("repair %s: %w", dir, err)
	}
	r := s.report()
	if s.damage == nil {
		return r, nil
	}
	if err := s.repair(o.FS, journal, now, &r); err != nil {
		return r, fmt.Errorf("repair %s: %w", dir, err)
	}
	return r, nil
}

// repair first replaces the damaged segment and then moves those behind it: a crash
// in between leaves a gap, which is damage that can be repaired again, and never a
// journal that looks whole.
func (s *survey) repair(fs vfs.FS, dir string, now time.Time, r *Report) error {
	aside, err := makeAside(fs, dir, now)
	if err != nil {
		return err
	}
	r.Aside = relative(fs.PathBase(aside))
	// If the damage is a missing file, the last segment that was read is whole.
	if n := len(s.segments); n > 0 && relative(s.segments[n-1].name) == s.damage.File {
		if err := s.segments[n-1].keepStart(fs, dir, aside, r); err != nil {
			return err
		}
	}
	for _, name := range s.beyond {
		if err := moveAside(fs, dir, aside, name, r); err != nil {
			return err
		}
	}
	return nil
}

func makeAside(fs vfs.FS, dir string, now time.Time) (string, error) {
	base := fs.PathJoin(dir, "damaged-"+now.UTC().Format("20060102-150405"))
	aside := base
	for n := 2; ; n++ {
		if _, err := fs.Stat(aside); err != nil {
			break
		}
		aside = fmt.Sprintf("%s-%d", base, n)
	}
	return aside, makeDir(fs, aside)
}

func moveAside(fs vfs.FS, dir, aside, name string, r *Report) error {
	if err := fs.Rename(fs.PathJoin(dir, name), fs.PathJoin(aside, name)); err != nil {
		return err
	}
	r.Moved = append(r.Moved, relative(fs.PathBase(aside)+"/"+name))
	if err := syncDir(fs, aside); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

// keepStart puts a copy of a damaged segment's good records in its place.
//
// The segment itself is linked aside before the copy replaces it, so that it is
// never gone from both places. A segment without a good record is replaced by an
// empty one: it keeps the next number.
func (s surveyed) keepStart(fs vfs.FS, dir, aside string, r *Report) error {
	temp := fs.PathJoin(dir, "repaired"+tempSuffix)
	if err := s.copyStart(fs, dir, temp); err != nil {
		return fmt.Errorf("copy the good records of %s: %w", relative(s.name), err)
	}
	if err := fs.Link(fs.PathJoin(dir, s.name), fs.PathJoin(aside, s.name)); err != nil {
		return err
	}
	r.Moved = append(r.Moved, relative(fs.PathBase(aside)+"/"+s.name))
	if err := syncDir(fs, aside); err != nil {
		return err
	}
	if err := fs.Rename(temp, fs.PathJoin(dir, s.name)); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

func (s surveyed) copyStart(fs vfs.FS, dir, temp string) (err error) {
	head := s.head
	if head.salt == 0 { // it was unreadable
		head = newSegmentHead(s.head.first, Fsync)
	}
	from, err := fs.Open(fs.PathJoin(dir, s.name))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := to.Write(head.encode()); err != nil {
		return err
	}
	if _, err := io.Copy(to, io.NewSectionReader(from, headSize, s.end-headSize)); err != nil {
		return err
	}
	return to.Sync()
}
