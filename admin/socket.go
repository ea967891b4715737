package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
)

// pathMax is the longest path that a Unix socket has on every system. It includes a
// zero at the end.
const pathMax = 104

// socket is a socket in use, and the path that leads to it.
type socket struct {
	ln   net.Listener
	path string
}

// openSocket opens the socket in dir, for its owner only.
//
// It is made in a directory that nobody else can enter and moved to its place once
// its permissions are right: in between, nobody can connect to it.
func openSocket(dir string) (*socket, error) {
	path := filepath.Join(dir, Socket)
	if err := removeStale(path); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(dir, ".admin-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	short, done, err := shorten(made)
	if err != nil {
		return nil, err
	}
	defer done()
	ln, err := net.Listen("unix", short)
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // it is elsewhere by then
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return &socket{ln: ln, path: path}, nil
}

// removeStale removes a socket at path that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	short, done, err := shorten(path)
	if err != nil {
		return err
	}
	defer done()
	if nc, err := net.Dial("unix", short); err == nil {
		return errors.Join(errors.New("another broker listens on it"), nc.Close())
	}
	return os.Remove(path)
}

func (s *socket) remove() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// shorten returns a path to the same file that is short enough for a Unix socket. It
// leads there until done is called. Linux has such a path for every open directory.
func shorten(path string) (short string, done func(), err error) {
	if len(path) < pathMax {
		return path, func() {}, nil
	}
	if runtime.GOOS != "linux" {
		return "", nil, fmt.Errorf("%s: %d bytes are too long for a Unix socket, expected at most %d: choose a shorter data directory", path, len(path), pathMax-1)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { dir.Close() }, nil
}
