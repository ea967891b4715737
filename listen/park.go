package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// A goroutine that waits for a Client costs at least two kilobytes of stack, and
// after its first packet four. A connection that has nothing to say is parked
// instead: its goroutine ends, and this poller wakes it.

// poller waits for parked sockets with an epoll instance of its own. That is
// itself a file that the runtime's poller waits for, so it holds no thread.
type poller struct {
	epoll *os.File
	fd    int // of epoll
	raw   syscall.RawConn
	ended chan struct{}

	mu     sync.Mutex // guards parked
	parked []*socket  // by file descriptor
}

func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // so that the runtime waits for it
		syscall.Close(fd)
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	p := &poller{epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd, ended: make(chan struct{})}
	if p.raw, err = p.epoll.SyscallConn(); err != nil {
		p.epoll.Close()
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	go p.run() // ends with close
	return p, nil
}

// close ends the poller. No socket may be parked any more.
func (p *poller) close() {
	p.epoll.Close()
	<-p.ended
}

func (p *poller) run() {
	defer close(p.ended)
	events := make([]syscall.EpollEvent, 256)
	for {
		n := 0
		err := p.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = syscall.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && !errors.Is(err, syscall.EINTR)
		})
		if err != nil {
			return
		}
		for i := range max(n, 0) {
			if s := p.take(int(events[i].Fd)); s != nil {
				s.wake()
			}
		}
	}
}

// take returns the socket that is parked under the file descriptor, which it is
// no more, or nil: it was closed meanwhile.
func (p *poller) take(fd int) *socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd >= len(p.parked) {
		return nil
	}
	s := p.parked[fd]
	p.parked[fd] = nil
	return s
}

// put notes the socket before its event can come.
func (p *poller) put(fd int, s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd >= len(p.parked) {
		bigger := make([]*socket, max(2*len(p.parked), fd+1, 64))
		copy(bigger, p.parked)
		p.parked = bigger
	}
	p.parked[fd] = s
}

// Park implements [Conn].
func (s *socket) Park(wake func()) bool {
	if s.poller == nil {
		return false
	}
	s.wake = wake
	ok := false
	err := s.raw.Control(func(fd uintptr) {
		s.poller.put(int(fd), s)
		// One event only, however much comes: the goroutine that it wakes reads all.
		event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(fd)}
		op := syscall.EPOLL_CTL_MOD
		if !s.polled.Load() {
			op = syscall.EPOLL_CTL_ADD
		}
		if ok = syscall.EpollCtl(s.poller.fd, op, int(fd), &event) == nil; ok {
			s.polled.Store(true)
		} else {
			s.poller.take(int(fd))
		}
	})
	return ok && err == nil
}

// Close implements net.Conn. Closing takes the socket out of the poller, too.
func (s *socket) Close() error {
	if s.polled.Load() {
		s.raw.Control(func(fd uintptr) {
			if s.poller.at(int(fd)) == s {
				s.poller.take(int(fd))
			}
		})
	}
	err := s.Conn.Close()
	if s.closed != nil && s.once.CompareAndSwap(false, true) {
		s.closed()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *poller) at(fd int) *socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd >= len(p.parked) {
		return nil
	}
	return p.parked[fd]
}
