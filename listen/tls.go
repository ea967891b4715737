package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"fairlead/mqtt/packet"
)

// tlsConn is a Conn with TLS. crypto/tls reads and writes in one go and waits,
// so it is given a socket that does neither: what it reads comes from a buffer
// that is filled while there is something to read, what it writes is gathered
// and sent as far as it goes.
type tlsConn struct {
	*tls.Conn
	sock  *socket
	wire  *wire
	first func(info *Info, b []byte) error // looks at what comes first; nil once it has
}

// wire is what crypto/tls takes for its network connection.
type wire struct {
	net.Conn
	sock    *socket
	waits   bool    // during the handshake: read and write as usual
	in      *record // encrypted bytes that were read; nil: none
	mu      sync.Mutex
	pending []byte // encrypted bytes to be written
}

// record is a buffer for encrypted bytes; one TLS record fits.
type record struct {
	b    [17 << 10]byte
	r, w int
}

var records = sync.Pool{New: func() any { return new(record) }}

// newTLS does the handshake as a server.
func newTLS(ctx context.Context, s *socket, config *tls.Config) (*tlsConn, error) {
	w := &wire{Conn: s.Conn, sock: s, waits: true}
	t := &tlsConn{Conn: tls.Server(w, config), sock: s, wire: w}
	if err := t.HandshakeContext(ctx); err != nil {
		var header tls.RecordHeaderError
		if errors.As(err, &header) {
			if s := stranger(header.RecordHeader[:], Scheme(s.info.Scheme)); s != nil {
				return nil, s
			}
		}
		return nil, err
	}
	w.waits = false
	state := t.ConnectionState()
	s.info.TLS = &state
	return t, nil
}

// Info implements [Conn].
func (t *tlsConn) Info() Info { return *t.sock.info }

// RemoteAddr is the Client's address, also behind a proxy.
func (t *tlsConn) RemoteAddr() net.Addr { return t.sock.info.Remote }

// ReadLent implements packet.LentReader.
func (t *tlsConn) ReadLent(l packet.Lender) (int, error) {
	for {
		b := l.Lend()
		n, err := t.Conn.Read(b)
		if n > 0 {
			if t.first != nil {
				err = errors.Join(err, t.first(t.sock.info, b[:n]))
				t.first = nil
			}
			return n, err
		}
		l.Return()
		if err != errNothing {
			return n, err
		}
		if err := t.wire.fill(); err != nil {
			return 0, err
		}
	}
}

// errNothing says that no more encrypted bytes are there. crypto/tls goes on
// after an error that is temporary.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "listen: nothing to read for now" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// Read implements net.Conn; it waits.
func (t *tlsConn) Read(b []byte) (int, error) {
	for {
		n, err := t.Conn.Read(b)
		if n > 0 || err != errNothing {
			return n, err
		}
		if err := t.wire.fill(); err != nil {
			return 0, err
		}
	}
}

// fill waits for encrypted bytes. The buffer is taken only once they are there.
func (w *wire) fill() error {
	n, err := w.sock.ReadLent(w)
	if n > 0 {
		w.in.w = n
	}
	return err
}

// Lend implements packet.Lender for the encrypted bytes.
func (w *wire) Lend() []byte {
	if w.in == nil {
		w.in = records.Get().(*record)
		w.in.r, w.in.w = 0, 0
	}
	return w.in.b[:]
}

// Return implements packet.Lender.
func (w *wire) Return() {
	if w.in != nil {
		records.Put(w.in)
		w.in = nil
	}
}

// Read is what crypto/tls calls.
func (w *wire) Read(b []byte) (int, error) {
	if w.in == nil {
		if w.waits {
			return w.Conn.Read(b)
		}
		return 0, errNothing
	}
	n := copy(b, w.in.b[w.in.r:w.in.w])
	if w.in.r += n; w.in.r == w.in.w {
		w.Return()
	}
	return n, nil
}

// Write is what crypto/tls calls: with our data, or with an alert or key update
// of its own while it reads.
func (w *wire) Write(b []byte) (int, error) {
	if w.waits {
		return w.Conn.Write(b)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, b...)
	return len(b), nil
}

// Close sends what is pending, a close_notify above all, if it goes at once.
func (w *wire) Close() error {
	w.mu.Lock()
	b := w.pending
	w.pending = nil
	w.mu.Unlock()
	if len(b) > 0 {
		w.Conn.SetWriteDeadline(time.Now().Add(closeTime))
		w.Conn.Write(b)
	}
	return w.sock.Close()
}

// closeTime is how long a peer may delay the close of its connection.
const closeTime = 100 * time.Millisecond

// Park implements [Conn].
func (t *tlsConn) Park(wake func()) bool { return t.wire.in == nil && t.sock.Park(wake) }

// TryWrite implements [Conn].
func (t *tlsConn) TryWrite(b []byte) (int, error) {
	if _, err := t.Conn.Write(b); err != nil {
		return 0, err
	}
	w := t.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := t.sock.TryWrite(w.pending)
	w.sent(n)
	return len(b), err
}

// sent forgets the first n pending bytes. A buffer that is empty is let go, so
// that an idle connection holds none.
func (w *wire) sent(n int) {
	w.pending = w.pending[n:]
	if len(w.pending) == 0 {
		w.pending = nil
	}
}

// Write implements net.Conn; it waits.
func (t *tlsConn) Write(b []byte) (int, error) {
	if _, err := t.Conn.Write(b); err != nil {
		return 0, err
	}
	w := t.wire
	w.mu.Lock()
	out := w.pending
	w.pending = nil
	w.mu.Unlock()
	if len(out) == 0 {
		return len(b), nil
	}
	if _, err := t.sock.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetReadDeadline and SetWriteDeadline act on the socket: crypto/tls must not
// take a deadline for its own end.
func (t *tlsConn) SetReadDeadline(at time.Time) error  { return t.sock.SetReadDeadline(at) }
func (t *tlsConn) SetWriteDeadline(at time.Time) error { return t.sock.SetWriteDeadline(at) }
func (t *tlsConn) SetDeadline(at time.Time) error      { return t.sock.SetDeadline(at) }
