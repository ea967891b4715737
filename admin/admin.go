// Package admin is the HTTP API for those who look after a broker, and its client
// side. Begin with [Open] for the broker's side, and with [Dial] or [Connect] for the
// other one.
//
// There are two doors. The Unix socket admin.sock in the data directory: who may open
// the file is an admin. And HTTPS, if [Options.Listen] says so: who comes shows a token
// of a user who has a role, or a certificate, see [Options.UserCAs]. A viewer may look,
// an operator may do everything but what is about users, tokens, policies, the CA and
// backups, an admin may do all; routes.go is the table.
//
// docs/openapi.json describes all routes; it is made of the code. Lists come in parts,
// see [List]. What is refused or fails is answered with a [Problem].
//
// Every act is in the audit log before it is done, and a second time with the reason if
// it fails. So is what is refused.
package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"fairlead/access"
	"fairlead/audit"
	"fairlead/auth"
	"fairlead/broker"
	"fairlead/ca"
	"fairlead/device"
	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/store"
)

// Socket is the name of the socket in the data directory.
const Socket = "admin.sock"

const (
	// headerTime is what a caller has for its TLS handshake, and then for the head of
	// its request.
	headerTime = 10 * time.Second
	// bodyTime is what a caller has for the body of its request.
	bodyTime = 10 * time.Second
	// answerWithin is what a caller and we have for an answer; a backup has a limit of
	// its own.
	answerWithin = 2 * time.Minute
	// actTime is what an act has. It is finished even if its caller has gone.
	actTime = 30 * time.Second

	headBytesMax = 16 << 10
	// connectionsMax and sourceMax are how many connections HTTPS has at a time, in all
	// and from one address. What is beyond them is closed at once.
	connectionsMax = 256
	sourceMax      = 32
)

// Broker is what the API needs of the broker.
type Broker interface {
	// Status looks at everything, and lists the most biggest queues.
	Status(most int) broker.Status
	// Hold runs f while nothing behind the place from is checkpointed or trimmed.
	Hold(ctx context.Context, f func(from store.Pos) error) error
	// Members lists all Sessions.
	Members() []broker.Member
	// RetainedNames lists topics of Retained Messages.
	RetainedNames(most int) []string
	// Disconnect ends the connection of a Client; false: there is none.
	Disconnect(id mqtt.ClientID, code mqtt.ReasonCode, why string) bool
	// Serve serves a connection and closes it in the end.
	Serve(nc listen.Conn)
}

// CA is what the API needs of the CA. *[ca.Authority] has it.
type CA interface {
	IssueDevice(name string, o ca.DeviceOptions) (ca.Bundle, error)
	SignCSR(name string, csr []byte, o ca.DeviceOptions) (ca.Certificate, error)
	Revoke(list ...ca.Revocation) error
	Identify(state *tls.ConnectionState) (ca.Identity, error)
	Root() []byte
	CRLPEM() ([]byte, error)
	Fingerprint() string
	Expiries() []ca.Expiry
	Revocations() []ca.Revocation
	Export() ([]ca.File, error)
}

// Options are what a Server needs to know. Dir and Broker must be set. Where another
// part is nil, the routes that need it answer 409 and say so.
type Options struct {
	Dir        string // the data directory
	Broker     Broker
	Store      store.Engine // nil: all is in memory, and there is nothing to back up
	Durability string       // fsync, os or memory

	Registry *device.Registry
	CA       CA
	// Audit is the log that each act is written to. nil: no act is done, but for a
	// backup.
	Audit    *audit.Log
	Policies *access.Policies
	// URLs are where clients connect, the best first. nil: not known.
	URLs func() []string
	// Doctor looks for what is insecure or about to end. nil: nobody does.
	Doctor func(ctx context.Context) []Finding

	// Listen is the address of the HTTPS side: HOST:PORT. Empty: there is only the
	// socket. It needs Registry, Audit and TLS.
	Listen string
	// TLS is the HTTPS side's. Clients may show a certificate, which is not verified by
	// more than the handshake: CA.Identify says what it is worth. Among its NextProtos
	// is "http/1.1".
	TLS *tls.Config
	// UserCAs are the CAs whose certificates may name users: names of client CAs of CA,
	// and "" for its own. Otherwise a certificate is no identity here, since it names a
	// device, and whoever may issue one could name an admin.
	UserCAs []string

	Logger *slog.Logger // nil: nothing is logged
}

func (o *Options) validate() error {
	switch {
	case o.Broker == nil:
		return errors.New("no broker")
	case o.Listen != "" && o.TLS == nil:
		return errors.New("listen: HTTPS needs TLS")
	case o.Listen != "" && (o.Registry == nil || o.Audit == nil):
		return errors.New("listen: HTTPS needs a registry and an audit log")
	}
	return nil
}

// Server answers until Close.
type Server struct {
	o        Options
	mux      *http.ServeMux
	document []byte // the OpenAPI document
	tokens   *auth.Chain
	foreign  *http.CrossOriginProtection
	socket   *socket
	local    *http.Server
	remote   *http.Server // nil: there is only the socket
	listener net.Listener // of remote

	backup sync.Mutex    // held while a backup is written
	verify sync.Mutex    // held while the audit log is verified
	study  chan struct{} // holds a token while somebody looks at all members
	users  sync.Map      // Unix user id to name

	end     context.CancelFunc // of all requests
	serving sync.WaitGroup     // the servers and the requests under way
	mu      sync.Mutex         // guards closed
	closed  bool
}

// Open opens the socket, and the HTTPS side if there is one, and serves on them. A
// socket that a process has left behind is replaced; one that is in use is not.
func Open(o Options) (*Server, error) {
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err := s.openDoors(); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare makes a server without doors.
func prepare(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("administration: %w", err)
	}
	s := &Server{o: o, study: make(chan struct{}, 1), foreign: http.NewCrossOriginProtection()}
	if o.Registry != nil {
		var err error
		if s.tokens, err = auth.New(auth.Options{Directory: o.Registry, Methods: []auth.Method{auth.Tokens{}}, Refused: s.loginRefused}); err != nil {
			return nil, err
		}
	}
	return s, s.routes()
}

func (s *Server) openDoors() (err error) {
	if s.socket, err = openSocket(s.o.Dir); err != nil {
		return fmt.Errorf("open %s: %w", Socket, err)
	}
	if s.o.Listen != "" {
		if err := s.openRemote(); err != nil {
			return errors.Join(err, s.socket.ln.Close(), s.socket.remove())
		}
	}
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	s.local = s.server(ctx, s.atSocket)
	s.local.ConnContext = s.peer
	s.serve(s.local, s.socket.ln, "the administration's socket has failed")
	if s.listener != nil {
		s.remote = s.server(ctx, s.atHTTPS)
		s.serve(s.remote, tls.NewListener(s.listener, s.o.TLS), "the administration's HTTPS has failed")
	}
	return nil
}

func (s *Server) openRemote() error {
	ln, err := net.Listen("tcp", s.o.Listen)
	if err != nil {
		return fmt.Errorf("administration: %w", err)
	}
	s.listener = newLimited(ln)
	return nil
}

// server makes one of the two doors: who says who comes, or why nobody does.
func (s *Server) server(ctx context.Context, who identify) *http.Server {
	return &http.Server{
		Handler:           s.waited(s.guard(who)),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerTime, IdleTimeout: time.Minute, MaxHeaderBytes: headBytesMax,
		ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
	}
}

func (s *Server) serve(h *http.Server, ln net.Listener, failed string) {
	s.serving.Go(func() { // ends with Close
		if err := h.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.o.Logger.Error(failed, "err", err)
		}
	})
}

// URL is that of the HTTPS side, with its real port; empty: there is none.
func (s *Server) URL() string {
	if s.listener == nil {
		return ""
	}
	return "https://" + s.listener.Addr().String()
}

// waited lets Close wait for the requests under way.
func (s *Server) waited(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		closed := s.closed
		if !closed {
			s.serving.Add(1)
		}
		s.mu.Unlock()
		if closed {
			refuse(w, http.StatusServiceUnavailable, errors.New("the broker is shutting down"))
			return
		}
		defer s.serving.Done()
		h.ServeHTTP(w, r)
	})
}

// Close ends all requests, a backup under way included, and removes the socket. An act
// that has begun is finished. MQTT connections that came over the socket are the
// broker's.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	err := errors.Join(s.local.Close(), s.socket.remove())
	if s.remote != nil {
		err = errors.Join(err, s.remote.Close())
	}
	s.serving.Wait()
	return err
}
