// Package admin is the HTTP API for the person at the machine, on a Unix socket in
// the data directory: who may open the file may use it. Begin with [Open] for the
// broker's side and [Dial] for the other one.
//
//	GET  /v1/status?top=10   a [Status] as JSON, with the 10 biggest queues
//	POST /v1/backup          a backup as a stream, see package store/backup
//
// What fails is answered with {"error": "…"}. A backup that fails when its stream has
// begun ends early, and the trailer Fairlead-Error says why.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"fairlead/broker"
	"fairlead/store"
	"fairlead/store/backup"
)

// Socket is the name of the socket in the data directory.
const Socket = "admin.sock"

// errorTrailer is the HTTP trailer that says why a stream ends early.
const errorTrailer = "Fairlead-Error"

const (
	topDefault = 10
	topMax     = 10_000
	// headerTime is what a caller has for its request.
	headerTime = 10 * time.Second
	// stallTime is how long a caller may take nothing of a backup: no checkpoint is
	// written meanwhile, and the journal grows.
	stallTime = 30 * time.Second
)

// Broker is what the API needs of the broker.
type Broker interface {
	// Status looks at everything, and lists the most biggest queues.
	Status(most int) broker.Status
	// Hold runs f while nothing behind the place from is checkpointed or trimmed.
	Hold(ctx context.Context, f func(from store.Pos) error) error
}

// Options are what a Server needs to know.
type Options struct {
	Dir        string // the data directory
	Broker     Broker
	Store      store.Engine // nil: all is in memory, and there is nothing to back up
	Durability string       // fsync, os or memory
	Logger     *slog.Logger // nil: nothing is logged
}

// Server answers on the socket until Close.
type Server struct {
	o      Options
	http   *http.Server
	socket *socket
	backup sync.Mutex // held while a backup is written

	end     context.CancelFunc // of all requests
	serving sync.WaitGroup     // Serve and the requests under way
	mu      sync.Mutex         // guards closed
	closed  bool
}

// Open opens the socket and serves on it. A socket that a process has left behind is
// replaced; one that is in use is not.
func Open(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	so, err := openSocket(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", Socket, err)
	}
	ctx, end := context.WithCancel(context.Background())
	s := &Server{o: o, socket: so, end: end}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/backup", s.writeBackup)
	s.http = &http.Server{
		Handler:           s.waited(mux),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerTime, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	s.serving.Go(func() { // ends with Close
		if err := s.http.Serve(so.ln); !errors.Is(err, http.ErrServerClosed) {
			o.Logger.Error("the administration's socket has failed", "err", err)
		}
	})
	return s, nil
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
			return
		}
		defer s.serving.Done()
		h.ServeHTTP(w, r)
	})
}

// Close ends all requests, a backup under way included, and removes the socket.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	err := errors.Join(s.http.Close(), s.socket.remove())
	s.serving.Wait()
	return err
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	top := topDefault
	if q := r.URL.Query().Get("top"); q != "" {
		n, err := strconv.Atoi(q)
		if err != nil || n < 0 || n > topMax {
			refuse(w, http.StatusBadRequest, fmt.Errorf("top=%q: expected a whole number from 0 to %d", q, topMax))
			return
		}
		top = n
	}
	st := newStatus(s.o.Broker.Status(top))
	st.Data, st.Durability = s.o.Dir, s.o.Durability
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(st); err != nil {
		s.o.Logger.Debug("a status was not sent", "err", err)
	}
}

func (s *Server) writeBackup(w http.ResponseWriter, r *http.Request) {
	if s.o.Store == nil {
		refuse(w, http.StatusConflict, errors.New("there is nothing to back up: the broker keeps all in memory (--durability memory)"))
		return
	}
	if !s.backup.TryLock() {
		refuse(w, http.StatusConflict, errors.New("another backup is being written"))
		return
	}
	defer s.backup.Unlock()
	began := time.Now()
	to := &patient{w: w, control: http.NewResponseController(w)}
	var sum backup.Summary
	err := s.o.Broker.Hold(r.Context(), func(from store.Pos) (err error) {
		head := backup.Head{Made: began, Program: s.o.Broker.Status(0).Version}
		sum, err = backup.Write(r.Context(), to, s.o.Store, from, head, nil)
		return err
	})
	if err != nil {
		s.o.Logger.Error("a backup has failed", "err", err)
		if !to.begun {
			refuse(w, http.StatusInternalServerError, err)
		}
		w.Header().Set(errorTrailer, err.Error())
		return
	}
	s.o.Logger.Info("backed up", "keys", sum.Keys, "records", sum.Records, "bytes", sum.Bytes, "took", time.Since(began).Round(time.Millisecond))
}

// patient writes to a caller that takes what it is given, sooner or later.
type patient struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (p *patient) Write(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		p.w.Header().Set("Trailer", errorTrailer)
		p.w.Header().Set("Content-Type", "application/octet-stream")
	}
	if err := p.control.SetWriteDeadline(time.Now().Add(stallTime)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

// refusal is the answer to what can't be done.
type refusal struct {
	Error string `json:"error"`
}

func refuse(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// Who has gone meanwhile needs no answer.
	_ = json.NewEncoder(w).Encode(refusal{err.Error()})
}
