package admin

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"fairlead/store"
	"fairlead/store/backup"
)

// errorTrailer is the HTTP trailer that says why a stream ends early.
const errorTrailer = "Fairlead-Error"

// stallTime is how long a caller may take nothing of a backup: no checkpoint is written
// meanwhile, and the journal grows.
const stallTime = 30 * time.Second

// writeBackup streams a backup. It is written past huma, which would hold it whole.
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
	entry := callerOf(r.Context()).entry("backup.make", "")
	if s.o.Audit != nil { // without a log it is done all the same: it saves what can be saved
		if err := s.o.Audit.Act(r.Context(), entry); err != nil {
			refuse(w, http.StatusServiceUnavailable, fmt.Errorf("the audit log can't be written, so nothing is done: %w", err))
			return
		}
	}
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
		s.failed(r.Context(), entry, err)
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
