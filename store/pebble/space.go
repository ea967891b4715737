package pebble

import (
	"fmt"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// reserveMax is what writers leave free on the file system, or a twentieth of
	// it if that is less: room in which Pebble flushes and compacts, so that it
	// hardly ever meets a full disk, and in which trimming and deleting go on.
	reserveMax = 64 << 20
	// spaceEvery is how many bytes are written before the file system is asked
	// again; housekeeping asks as well.
	spaceEvery = 4 << 20
)

// space knows how much room the file system has.
type space struct {
	fs  vfs.FS
	dir string

	mu      sync.Mutex // guards all below; asking a file system does no I/O
	free    int64      // -1: unknown
	reserve int64
	since   int64 // bytes promised since it was asked
}

func newSpace(fs vfs.FS, dir string) *space {
	s := &space{fs: fs, dir: dir}
	s.refresh()
	return s
}

func (s *space) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshLocked()
}

func (s *space) refreshLocked() {
	s.since = 0
	u, err := s.fs.GetDiskUsage(s.dir)
	if err != nil {
		s.free, s.reserve = -1, 0
		return
	}
	s.free = int64(min(u.AvailBytes, 1<<62))
	s.reserve = min(reserveMax, int64(u.TotalBytes/20))
}

// room says why there is no room for n more bytes, nil if there is.
func (s *space) room(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since += n; s.since > spaceEvery || s.free-s.reserve < s.since+spaceEvery {
		s.refreshLocked()
		s.since = n
	}
	if s.free < 0 || s.free-n >= s.reserve {
		return nil
	}
	return fmt.Errorf("%d KiB are free in %s, and %d KiB of them are kept for trimming and repair: %w",
		s.free>>10, s.dir, s.reserve>>10, syscall.ENOSPC)
}

func (s *space) freeBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free
}
