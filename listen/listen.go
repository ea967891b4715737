// Package listen accepts Network Connections: TCP, TLS, WebSocket and Unix
// sockets, with or without a PROXY header in front. Begin with [Listen]; what
// comes out is a [Conn], the same for all of them.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options say what a Listener does. URL is all it needs.
type Options struct {
	Name           string        // for logs; empty: the URL
	URL            URL           // what to listen on
	TLS            *tls.Config   // certificate and what clients must show; for mqtts and wss
	ProxyProtocol  bool          // each connection begins with a PROXY header, version 1 or 2
	Origins        []string      // hosts whose web pages may connect by WebSocket, beside this one and loopback; "*": any
	HandshakeTime  time.Duration // for PROXY header, TLS and WebSocket together; 0: HandshakeTime
	MaxConnections int           // at the same time; beyond it a connection is closed at once; 0: no limit
	Rate           int           // new connections a second; beyond it they wait to be accepted; 0: no limit
	Logger         *slog.Logger  // nil: nothing is logged
	// Refused is told of handshakes that fail, with the listener's name and the address
	// that the connection came from. It must not wait. nil: nobody is.
	Refused func(listener string, from net.Addr, err error)
}

// HandshakeTime is how long a connection may take until its first MQTT byte can
// be read.
const HandshakeTime = 10 * time.Second

// Counters are what a Listener counts.
type Counters struct {
	Accepted atomic.Uint64 // connections
	Open     atomic.Int64  // connections now
	Limited  atomic.Uint64 // closed at once because of MaxConnections
	Failed   atomic.Uint64 // handshakes that failed
	Strange  atomic.Uint64 // connections that speak another protocol
}

// Listener accepts connections at one address. Make one with [Listen].
type Listener struct {
	Counters
	o      Options
	ln     net.Listener
	logger *slog.Logger
	quiet  quiet
	web    webSocket
	poller *poller // for parked connections; nil while Serve does not run
}

// Listen opens the address. The error says what was to be opened.
func Listen(ctx context.Context, o Options) (*Listener, error) {
	if o.URL.TLS() && o.TLS == nil {
		return nil, fmt.Errorf("listen on %s: TLS needs a certificate", o.URL)
	}
	if o.HandshakeTime <= 0 {
		o.HandshakeTime = HandshakeTime
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Listener{o: o, logger: o.Logger, web: webSocket{origins: o.Origins}}
	var err error
	if o.URL.Scheme == Unix {
		l.ln, err = listenUnix(ctx, o.URL.Path)
	} else {
		lc := net.ListenConfig{KeepAlive: -1, Control: keepAlive} // not by net: see keepAlive
		l.ln, err = lc.Listen(ctx, "tcp", o.URL.Host)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.URL, err)
	}
	if l.o.Name == "" {
		l.o.Name = l.URL()
	}
	return l, nil
}

// keepAlive lets the kernel look after peers that have vanished. The accepted
// sockets inherit it, which saves four system calls for each.
func keepAlive(_, _ string, raw syscall.RawConn) error {
	var err error
	set := func(fd uintptr, level, option, value int) {
		err = errors.Join(err, syscall.SetsockoptInt(int(fd), level, option, value))
	}
	controlErr := raw.Control(func(fd uintptr) {
		set(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
		set(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 60)
		set(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 15)
		set(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 9)
	})
	return errors.Join(err, controlErr)
}

// listenUnix opens a socket file that only its owner and group may use. A file
// that a process has left behind is removed; one that is in use is not.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if _, err := os.Stat(path); err == nil {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, errors.New("the socket is in use")
		}
		if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
			return nil, errors.New("there is a file that is not a socket")
		}
		os.Remove(path)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// Addr is the address that was opened, with its real port.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// URL is where clients connect, with the real port if any port was asked for.
func (l *Listener) URL() string {
	u := l.o.URL
	if u.Scheme != Unix {
		u.Host = l.ln.Addr().String()
	}
	return u.String()
}

// Close ends Serve and accepts nothing any more. Connections go on.
func (l *Listener) Close() error { return l.ln.Close() }

// Serve accepts connections until ctx ends or Close is called, and calls handle
// for each in a goroutine of its own once its handshakes are done. Whoever
// handles a connection closes it, before handle returns or later. When Serve
// returns, all of them have been closed.
func (l *Listener) Serve(ctx context.Context, handle func(context.Context, Conn)) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var err error
	if l.poller, err = newPoller(); err != nil {
		return err
	}
	defer l.poller.close()
	var wg sync.WaitGroup // of connections
	defer wg.Wait()
	pace := pace{every: l.o.Rate}
	for {
		var nc net.Conn
		nc, err = l.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return ctx.Err()
		}
		if err != nil {
			l.quiet.warn(l.logger, "connections can't be accepted", "listener", l.o.Name, "err", err)
			if !wait(ctx, acceptPause) { // out of file descriptors, most likely: some will be closed
				return ctx.Err()
			}
			continue
		}
		if l.o.MaxConnections > 0 && l.Open.Load() >= int64(l.o.MaxConnections) {
			l.Limited.Add(1)
			l.quiet.warn(l.logger, "connection refused: the limit is reached", "listener", l.o.Name, "max_connections", l.o.MaxConnections)
			nc.Close()
			continue
		}
		l.Accepted.Add(1)
		l.Open.Add(1)
		wg.Add(1)
		go l.serve(ctx, nc, handle, func() { // at its end
			l.Open.Add(-1)
			wg.Done()
		})
		if d := pace.next(time.Now()); d > 0 && !wait(ctx, d) {
			return ctx.Err()
		}
	}
}

// acceptPause is how long Serve waits when nothing can be accepted.
const acceptPause = 50 * time.Millisecond

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// serve does the handshakes of one connection. closed is called when it has been
// closed.
func (l *Listener) serve(ctx context.Context, nc net.Conn, handle func(context.Context, Conn), closed func()) {
	c, err := l.handshake(ctx, nc, closed)
	if err != nil {
		nc.Close()
		closed()
		l.failed(nc, err)
		return
	}
	handle(ctx, c)
}

func (l *Listener) handshake(ctx context.Context, nc net.Conn, closed func()) (Conn, error) {
	nc.SetDeadline(time.Now().Add(l.o.HandshakeTime))
	info := &Info{Listener: l.o.Name, Scheme: string(l.o.URL.Scheme), Remote: nc.RemoteAddr(), UID: -1}
	if l.o.ProxyProtocol {
		if err := readProxy(nc, info); err != nil {
			return nil, err
		}
	}
	s, err := newSocket(nc, info)
	if err != nil {
		return nil, err
	}
	var c Conn = s
	if l.o.URL.TLS() {
		t, err := newTLS(ctx, s, l.o.TLS)
		if err != nil {
			return nil, err
		}
		if c = t; !l.o.URL.WebSocket() {
			t.first = l.firstByte
		}
	}
	switch {
	case l.o.URL.WebSocket():
		if c, err = l.web.upgrade(c, info); err != nil {
			return nil, err
		}
	case !l.o.URL.TLS():
		s.first = l.firstByte
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	s.poller, s.closed = l.poller, closed // from here on the connection is the caller's
	return c, nil
}

// failed writes the one line about a connection that was none.
func (l *Listener) failed(nc net.Conn, err error) {
	var s *strange
	if errors.As(err, &s) {
		l.Strange.Add(1)
		l.quiet.warn(l.logger, s.Error(), "listener", l.o.Name, "remote", nc.RemoteAddr())
		return
	}
	l.Failed.Add(1)
	if l.o.Refused != nil {
		l.o.Refused(l.o.Name, nc.RemoteAddr(), err)
	}
	l.logger.Debug("handshake failed", "listener", l.o.Name, "remote", nc.RemoteAddr(), "err", err)
}

// firstByte looks at what a client on an MQTT port says first; any TLS is behind us.
func (l *Listener) firstByte(info *Info, b []byte) error {
	if s := stranger(b, MQTT); s != nil {
		l.Strange.Add(1)
		l.quiet.warn(l.logger, s.Error(), "listener", l.o.Name, "remote", info.Remote)
		return s
	}
	return nil
}

// strange is a client that speaks another protocol than the listener.
type strange struct{ what string }

func (s *strange) Error() string { return s.what }

// stranger tells by the first bytes whether a client on a port for the scheme
// speaks something else; nil: it may be right.
func stranger(b []byte, want Scheme) *strange {
	if len(b) == 0 {
		return nil
	}
	switch first := b[0]; {
	case first == 0x16 && !want.tls():
		return &strange{"a TLS client on a port without TLS: let it use mqtts:// or wss:// with its port, or turn TLS off in the client"}
	case first == 0x10 && want.tls(), beginsHTTP(first) && want == WSS:
		return &strange{"a client without TLS on a TLS port: turn TLS on in the client"}
	case first == 0x10 && want.webSocket():
		return &strange{"an MQTT client without WebSocket on a WebSocket port: let it use the mqtt:// port"}
	case beginsHTTP(first) && !want.webSocket():
		return &strange{"an HTTP or WebSocket client on an MQTT port: let it use ws:// or wss:// with its port"}
	}
	return nil
}

// beginsHTTP reports whether a request may begin so: GET, POST, PUT, PATCH, HEAD, OPTIONS.
func beginsHTTP(first byte) bool { return first == 'G' || first == 'P' || first == 'H' || first == 'O' }

// pace spreads new connections over time: a bucket that holds one second's worth.
type pace struct {
	every int // connections a second; 0: any
	full  time.Time
}

// next returns how long to wait before the next connection is accepted.
func (p *pace) next(now time.Time) time.Duration {
	if p.every <= 0 {
		return 0
	}
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(time.Second / time.Duration(p.every))
	return p.full.Sub(now) - time.Second
}

// quiet keeps a warning that clients can cause from filling the log: one a
// second, with the number of those left out.
type quiet struct {
	mu   sync.Mutex
	last time.Time
	kept int
}

func (q *quiet) warn(log *slog.Logger, msg string, args ...any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if now.Sub(q.last) < time.Second {
		q.kept++
		return
	}
	if q.kept > 0 {
		args = append(args, "left_out", q.kept)
	}
	q.last, q.kept = now, 0
	log.Warn(msg, args...)
}
