package listen

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"fairlead/mqtt/packet"
)

// Conn is one Network Connection as the broker uses it: an ordered, lossless
// stream of bytes in both directions [MQTT-4.2.0-1].
type Conn interface {
	net.Conn
	// ReadLent is Read into a buffer that is asked for only once there is
	// something to read: an idle connection holds none.
	packet.LentReader
	// TryWrite writes what goes without waiting. It returns how many bytes of b
	// it has taken over, and ErrWouldBlock if any byte remains, in b[n:] or
	// inside; the caller then calls Write(b[n:]), even if that is empty, which
	// waits and sends first what remained inside. TryWrite and Write must not be
	// called at the same time.
	TryWrite(b []byte) (n int, err error)
	// Park lets the goroutine that reads the connection end while there is
	// nothing to read: wake is called once, from another goroutine, as soon as
	// there is, or the peer is gone. It must not wait. Between the two nobody may
	// read. False: the caller has to wait by itself.
	Park(wake func()) bool
	// Info says where the connection comes from.
	Info() Info
}

// ErrWouldBlock says that the peer takes no more for now.
var ErrWouldBlock = errors.New("listen: the peer takes no more for now")

// Info is what is known of a Network Connection before its first packet.
type Info struct {
	Listener    string               // name of the listener
	Scheme      string               // mqtt, mqtts, ws, wss, unix
	Remote      net.Addr             // the Client's address, also behind a proxy
	TLS         *tls.ConnectionState // nil without TLS
	Subprotocol string               // WebSocket sub-protocol
	UID         int                  // of a Unix socket's peer; -1: not known
	CommonName  string               // of the certificate that a PROXY header tells of
}

// Wrap makes a Conn of any net.Conn, such as a net.Pipe. Each write of it waits.
func Wrap(nc net.Conn, info Info) Conn { return &wrapped{nc, info} }

type wrapped struct {
	net.Conn
	info Info
}

func (w *wrapped) Info() Info                   { return w.info }
func (w *wrapped) Park(func()) bool             { return false }
func (w *wrapped) TryWrite([]byte) (int, error) { return 0, ErrWouldBlock }

func (w *wrapped) ReadLent(l packet.Lender) (int, error) {
	n, err := w.Read(l.Lend())
	if n == 0 {
		l.Return()
	}
	return n, err
}

// socket is a Conn on a TCP or Unix socket. It reads and writes with one system
// call each, and without an allocation.
type socket struct {
	net.Conn
	raw   syscall.RawConn
	info  *Info
	first func(info *Info, b []byte) error // looks at what comes first; nil once it has
	read  reading
	write writing

	poller *poller     // nil: it can't be parked
	wake   func()      // of the latest Park
	polled atomic.Bool // the poller knows the file descriptor
	closed func()      // called at the first Close; may be nil
	once   atomic.Bool // closed has been called
}

// reading and writing are the arguments and results of the calls under way: the
// funcs that the runtime calls are made once, not for each call.
type reading struct {
	lender packet.Lender
	n      int
	err    error
	try    func(fd uintptr) bool
}

type writing struct {
	b   []byte
	n   int
	err error
	try func(fd uintptr) bool
}

// newSocket wraps a connection that has a file descriptor.
func newSocket(nc net.Conn, info *Info) (*socket, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, errors.New("listen: not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: nc, raw: raw, info: info}
	s.read.try = s.tryRead
	s.write.try = s.tryWrite
	return s, nil
}

func (s *socket) Info() Info { return *s.info }

func (s *socket) RemoteAddr() net.Addr { return s.info.Remote }

// ReadLent implements [packet.LentReader].
func (s *socket) ReadLent(l packet.Lender) (int, error) {
	s.read.lender, s.read.n, s.read.err = l, 0, nil
	if err := s.raw.Read(s.read.try); err != nil {
		return 0, err
	}
	if s.read.n == 0 && s.read.err == nil {
		return 0, io.EOF
	}
	return s.read.n, s.read.err
}

// tryRead reports whether it need not wait any longer.
func (s *socket) tryRead(fd uintptr) bool {
	r := &s.read
	for {
		b := r.lender.Lend()
		n, err := syscall.Read(int(fd), b)
		if err == syscall.EINTR {
			continue
		}
		if n <= 0 {
			r.lender.Return()
		}
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			r.err = &net.OpError{Op: "read", Net: "tcp", Addr: s.info.Remote, Err: err}
			return true
		}
		r.n = n
		if s.first != nil && n > 0 {
			r.err = s.first(s.info, b[:n])
			s.first = nil
		}
		return true
	}
}

// TryWrite implements [Conn].
func (s *socket) TryWrite(b []byte) (int, error) {
	s.write.b, s.write.n, s.write.err = b, 0, nil
	if err := s.raw.Write(s.write.try); err != nil {
		return 0, err
	}
	s.write.b = nil
	return s.write.n, s.write.err
}

// tryWrite never waits: it always says that it is done.
func (s *socket) tryWrite(fd uintptr) bool {
	w := &s.write
	for w.n < len(w.b) {
		n, err := syscall.Write(int(fd), w.b[w.n:])
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			w.err = ErrWouldBlock
			return true
		case err != nil:
			w.err = &net.OpError{Op: "write", Net: "tcp", Addr: s.info.Remote, Err: err}
			return true
		default:
			w.n += n
		}
	}
	return true
}
