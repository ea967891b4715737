package ca

import (
	"bytes"
	"crypto/sha256"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// watched is a file that may be replaced. A look at it costs a stat; it is read
// only when that has changed, and counts as changed when its content has.
type watched struct {
	name string // empty: a file that is not there and never changes
	seen signature
	sum  [sha256.Size]byte
}

// signature is what stat tells of a file's content.
type signature struct {
	size  int64
	mtime time.Time
	inode uint64
	err   bool
}

// settled is how old a file's time has to be before an equal one means an equal
// content: within one tick of the file system's clock a file can change twice.
const settled = 2 * time.Second

func look(name string) signature {
	info, err := os.Stat(name)
	if err != nil {
		return signature{err: true}
	}
	return signature{size: info.Size(), mtime: info.ModTime(), inode: inode(info)}
}

func inode(info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

// changed reports whether the file has another content than it had when read was
// called last.
func (w *watched) changed() bool {
	if w.name == "" {
		return false
	}
	now := look(w.name)
	if now == w.seen && time.Since(now.mtime) > settled { // by the real clock, which the file's time is from
		return false
	}
	w.seen = now
	data, err := readFile(w.name)
	if err != nil {
		return true
	}
	sum := sha256.Sum256(data)
	return !bytes.Equal(sum[:], w.sum[:])
}

// read reads the file and remembers what it was.
func (w *watched) read() ([]byte, error) {
	w.seen = look(w.name)
	data, err := readFile(w.name)
	if err != nil {
		w.sum = [sha256.Size]byte{}
		return nil, err
	}
	w.sum = sha256.Sum256(data)
	return data, nil
}
