package pebble

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fairlead/store"
)

const (
	formatFile = "FORMAT"
	lockFile   = "LOCK"
	kvDir      = "kv"

	formatPrefix = "fairlead store "
	// formatVersion is what this program writes.
	//
	//	1  journal/ of segments with heads of version 1, kv/ of Pebble
	formatVersion = 1
)

// A migration brings a data directory from the version that is its place in the
// list to the one after it. It may be broken off at any point by a crash, and then
// begins again: FORMAT is written after it.
type migration func(fs vfs.FS, dir string) error

// migrations is empty at 1; a nil entry is a version that can't be read any more.
var migrations = []migration{0: nil}

// openFormat checks FORMAT, migrates what is older, and writes it where nothing is
// yet.
func openFormat(fs vfs.FS, dir string, steps []migration) error {
	version, err := readFormat(fs, dir)
	if err != nil {
		return err
	}
	if version < 0 {
		return writeFormat(fs, dir, len(steps))
	}
	if version > len(steps) {
		return fmt.Errorf("%s says version %d, and this program knows up to %d: start the newer program again, or restore a backup from before it: %w",
			formatFile, version, len(steps), store.ErrNewerFormat)
	}
	for ; version < len(steps); version++ {
		if steps[version] == nil {
			return fmt.Errorf("%s says version %d, and this program reads from version %d on: start a release in between first", formatFile, version, oldest(steps))
		}
		if err := steps[version](fs, dir); err != nil {
			return fmt.Errorf("bring the data from version %d to %d: %w", version, version+1, err)
		}
		if err := writeFormat(fs, dir, version+1); err != nil {
			return err
		}
	}
	return nil
}

func oldest(steps []migration) int {
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i] == nil {
			return i + 1
		}
	}
	return 0
}

// readFormat returns -1 for a directory that holds nothing yet.
func readFormat(fsys vfs.FS, dir string) (int, error) {
	f, err := fsys.Open(fsys.PathJoin(dir, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, checkUnused(fsys, dir)
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", formatFile, err)
	}
	number, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), formatPrefix)
	version, err := strconv.Atoi(number)
	if !ok || err != nil || version < 0 {
		return 0, fmt.Errorf("%s holds %q, expected %q: %w", formatFile, b, formatPrefix+strconv.Itoa(formatVersion), store.ErrDamaged)
	}
	return version, nil
}

// checkUnused demands that a directory without FORMAT has no data: FORMAT is
// durable before anything else is written.
func checkUnused(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == journalDir || name == kvDir {
			return fmt.Errorf("%s is missing, and there is %s: %w", formatFile, name, store.ErrDamaged)
		}
	}
	return nil
}

func writeFormat(fs vfs.FS, dir string, version int) error {
	temp := fs.PathJoin(dir, formatFile+tempSuffix)
	f, err := fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(formatPrefix + strconv.Itoa(version) + "\n"))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", formatFile, err)
	}
	if err := fs.Rename(temp, fs.PathJoin(dir, formatFile)); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

// makeDir makes a directory durably.
func makeDir(fsys vfs.FS, dir string) error {
	if _, err := fsys.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := fsys.PathDir(dir)
	if parent != dir {
		if err := makeDir(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(fsys, parent)
}

func lockDir(fs vfs.FS, dir string) (io.Closer, error) {
	lock, err := fs.Lock(fs.PathJoin(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("lock %s: is another process using this directory?: %w", lockFile, err)
	}
	return lock, nil
}
