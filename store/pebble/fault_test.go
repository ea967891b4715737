package pebble

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faultFS is a file system that a test lets fail: before each change it asks rule,
// and after each it tells after. A failing write may leave some of its blocks.
type faultFS struct {
	vfs.FS
	mu    sync.Mutex
	rule  func(op fault) error
	after func(op fault)
	torn  *rand.Rand // nil: a write that fails leaves nothing
}

// A fault is a change that may fail.
type fault struct{ kind, name string }

func (f fault) journal() bool { return strings.Contains(f.name, journalDir) }
func (f fault) kv() bool      { return strings.Contains(f.name, kvDir) }

func (f *faultFS) set(rule func(fault) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = rule
}

func (f *faultFS) do(kind, name string, change func() error) error {
	f.mu.Lock()
	rule, after := f.rule, f.after
	f.mu.Unlock()
	op := fault{kind, name}
	if rule != nil {
		if err := rule(op); err != nil {
			return &os.PathError{Op: kind, Path: name, Err: err}
		}
	}
	err := change()
	if after != nil {
		after(op)
	}
	return err
}

func (f *faultFS) file(kind, name string, open func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	err := f.do(kind, name, func() (err error) { file, err = open(); return err })
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f, name}, nil
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file("create", name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *faultFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file("openrw", name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f *faultFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file("reuse", to, func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
}

func (f *faultFS) OpenDir(name string) (vfs.File, error) {
	return f.file("opendir", name, func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f *faultFS) Rename(from, to string) error {
	return f.do("rename", to, func() error { return f.FS.Rename(from, to) })
}

func (f *faultFS) Remove(name string) error {
	return f.do("remove", name, func() error { return f.FS.Remove(name) })
}

func (f *faultFS) Link(from, to string) error {
	return f.do("link", to, func() error { return f.FS.Link(from, to) })
}

type faultFile struct {
	vfs.File
	f    *faultFS
	name string
}

func (f *faultFile) Write(b []byte) (n int, err error) {
	err = f.f.do("write", f.name, func() error { n, err = f.File.Write(b); return err })
	return n, err
}

func (f *faultFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.f.do("write", f.name, func() error { n, err = f.File.WriteAt(b, off); return err })
	if err != nil && f.f.torn != nil {
		f.tear(b, off)
	}
	return n, err
}

// tear writes some blocks of what failed.
func (f *faultFile) tear(b []byte, off int64) {
	f.f.mu.Lock()
	defer f.f.mu.Unlock()
	for i := 0; i < len(b); i += block {
		if f.f.torn.IntN(2) == 0 {
			f.File.WriteAt(b[i:min(i+block, len(b))], off+int64(i))
		}
	}
}

func (f *faultFile) Sync() error {
	return f.f.do("fsync", f.name, f.File.Sync)
}

func (f *faultFile) SyncData() error {
	return f.f.do("fsync", f.name, f.File.SyncData)
}

func (f *faultFile) SyncTo(n int64) (full bool, err error) {
	err = f.f.do("syncto", f.name, func() error { full, err = f.File.SyncTo(n); return err })
	return full, err
}

// counted fails the changes of a kind that are numbered from first to last.
type counted struct {
	mu          sync.Mutex
	of          func(fault) bool
	n           int
	first, last int
	err         error
	hit         []fault
}

func (c *counted) rule(op fault) error {
	if !c.of(op) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	if c.n < c.first || c.n > c.last {
		return nil
	}
	c.hit = append(c.hit, op)
	return c.err
}

func (c *counted) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// injected says whether err comes from a fault of ours.
func injected(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOSPC)
}

// payload depends on its number, and is from one to three blocks long.
func payload(i int) []byte {
	b := fmt.Appendf(nil, "record %d ", i)
	for n := 1 + (i*2741)%(3*block); len(b) < n; {
		b = fmt.Appendf(b, "%d.", i)
	}
	return b
}
