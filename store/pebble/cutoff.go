package pebble

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// cutoff is the file system that an instance of Pebble gets. It reports the first
// change that fails and from then on lets nothing through to the disk, while it
// tells the instance that all goes well. So
//
//   - the instance never sees an error it has no answer to. Pebble ends the process
//     on an error of its WAL or MANIFEST: partly by Logger.Fatalf, which we could
//     outlive, but when the WAL can't be rotated by a panic while a mutex is
//     unlocked that a deferred call unlocks, and that the runtime doesn't let
//     anyone recover from;
//   - writers that wait for a flush don't wait for ever, and Close comes to its end;
//   - the next instance has the directory for itself while this one ends.
//
// What the instance says after the failure counts for nothing: whoever uses it asks
// failed() after each call.
type cutoff struct {
	vfs.FS
	onFail  func(error)
	written *atomic.Uint64 // bytes

	mu  sync.RWMutex // held for reading during each change, so that none ends after drain
	err atomic.Pointer[error]
}

// failed is why nothing of this instance counts any more, or nil.
func (c *cutoff) failed() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// fail cuts the instance off.
func (c *cutoff) fail(err error) {
	if c.err.CompareAndSwap(nil, &err) {
		c.onFail(err)
	}
}

// drain returns when no change is under way any more, after a failure. A disk that
// hangs holds it up: nothing else could be promised to the next instance.
func (c *cutoff) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
}

// change makes a change, or pretends to; done says which.
func (c *cutoff) change(op, name string, f func() error) (done bool) {
	c.mu.RLock()
	if c.failed() != nil {
		c.mu.RUnlock()
		return false
	}
	err := f()
	if err != nil {
		c.fail(fmt.Errorf("%s %s: %w", op, name, err))
	}
	c.mu.RUnlock()
	return err == nil
}

func (c *cutoff) open(op, name string, f func() (vfs.File, error)) (vfs.File, error) {
	cf := &cutoffFile{c: c, name: name}
	c.change(op, name, func() (err error) {
		cf.file, err = f()
		if err != nil {
			cf.file = nil // some wrappers return a typed nil
		}
		return err
	})
	return cf, nil
}

// Create makes the directory durable before a marker, by which Pebble says which
// MANIFEST counts: Pebble syncs the directory after that only, and on a file system
// that doesn't keep the order of changes a crash could leave the marker without its
// MANIFEST.
func (c *cutoff) Create(name string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	return c.open("create", name, func() (vfs.File, error) {
		if strings.HasPrefix(c.PathBase(name), "marker.") {
			if err := syncDir(c.FS, c.PathDir(name)); err != nil {
				return nil, err
			}
		}
		return c.FS.Create(name, cat)
	})
}

func (c *cutoff) OpenReadWrite(name string, cat vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return c.open("open", name, func() (vfs.File, error) { return c.FS.OpenReadWrite(name, cat, opts...) })
}

func (c *cutoff) ReuseForWrite(from, to string, cat vfs.DiskWriteCategory) (vfs.File, error) {
	return c.open("reuse", to, func() (vfs.File, error) { return c.FS.ReuseForWrite(from, to, cat) })
}

func (c *cutoff) OpenDir(name string) (vfs.File, error) {
	return c.open("open", name, func() (vfs.File, error) { return c.FS.OpenDir(name) })
}

func (c *cutoff) Link(from, to string) error {
	c.change("link", to, func() error { return c.FS.Link(from, to) })
	return nil
}

func (c *cutoff) Rename(from, to string) error {
	c.change("rename", to, func() error { return c.FS.Rename(from, to) })
	return nil
}

func (c *cutoff) MkdirAll(dir string, perm os.FileMode) error {
	c.change("make", dir, func() error { return c.FS.MkdirAll(dir, perm) })
	return nil
}

// Remove passes its error on: what can't be removed harms nobody, and Pebble tries
// again at the next start.
func (c *cutoff) Remove(name string) (err error) {
	c.change("remove", name, func() error { err = c.FS.Remove(name); return nil })
	return err
}

func (c *cutoff) RemoveAll(name string) (err error) {
	c.change("remove", name, func() error { err = c.FS.RemoveAll(name); return nil })
	return err
}

// Lock does nothing: the Engine holds a lock, through all its instances.
func (c *cutoff) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (c *cutoff) Unwrap() vfs.FS { return c.FS }

// cutoffFile is a file that is written. file is nil if it was created after the
// failure.
type cutoffFile struct {
	c    *cutoff
	name string
	file vfs.File
	size atomic.Int64 // as far as written
}

func (f *cutoffFile) change(op string, do func() error) {
	f.c.change(op, f.name, func() error {
		if f.file == nil {
			return nil
		}
		return do()
	})
}

func (f *cutoffFile) Write(b []byte) (int, error) {
	f.size.Add(int64(len(b)))
	f.change("write", func() error {
		n, err := f.file.Write(b)
		f.c.written.Add(uint64(n))
		return err
	})
	return len(b), nil
}

func (f *cutoffFile) WriteAt(b []byte, off int64) (int, error) {
	f.size.Store(max(f.size.Load(), off+int64(len(b))))
	f.change("write", func() error {
		n, err := f.file.WriteAt(b, off)
		f.c.written.Add(uint64(n))
		return err
	})
	return len(b), nil
}

func (f *cutoffFile) Sync() error {
	f.change("fsync", func() error { return f.file.Sync() })
	return nil
}

func (f *cutoffFile) SyncData() error {
	f.change("fsync", func() error { return f.file.SyncData() })
	return nil
}

func (f *cutoffFile) SyncTo(n int64) (full bool, err error) {
	f.change("fsync", func() (err error) { full, err = f.file.SyncTo(n); return err })
	return full, nil
}

// Preallocate passes its error on: it is only a hint, and some file systems know
// none.
func (f *cutoffFile) Preallocate(off, n int64) (err error) {
	f.change("preallocate", func() error { err = f.file.Preallocate(off, n); return nil })
	return err
}

// Close always closes, so that the dead instance leaves no descriptor behind.
func (f *cutoffFile) Close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.change("close", func() error { return err })
	return nil
}

func (f *cutoffFile) Read(b []byte) (int, error) {
	if f.file == nil {
		return 0, io.EOF
	}
	return f.file.Read(b)
}

func (f *cutoffFile) ReadAt(b []byte, off int64) (int, error) {
	if f.file == nil {
		return 0, io.EOF
	}
	return f.file.ReadAt(b, off)
}

func (f *cutoffFile) Prefetch(off, n int64) error {
	if f.file == nil {
		return nil
	}
	return f.file.Prefetch(off, n)
}

func (f *cutoffFile) Fd() uintptr {
	if f.file == nil {
		return vfs.InvalidFd
	}
	return f.file.Fd()
}

func (f *cutoffFile) Stat() (vfs.FileInfo, error) {
	if f.file == nil {
		return pretended{f.name, f.size.Load()}, nil
	}
	return f.file.Stat()
}

// pretended describes a file that was never made.
type pretended struct {
	name string
	size int64
}

func (p pretended) Name() string           { return p.name }
func (p pretended) Size() int64            { return p.size }
func (p pretended) Mode() fs.FileMode      { return 0o600 }
func (p pretended) ModTime() time.Time     { return time.Time{} }
func (p pretended) IsDir() bool            { return false }
func (p pretended) Sys() any               { return nil }
func (p pretended) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
