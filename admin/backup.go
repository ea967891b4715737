package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"fairlead/ca"
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
	secrets, no := secretsAsked(r)
	if no != nil {
		s.refused(callerOf(r.Context()).entry("backup.make", ""), no.Detail)
		refuse(w, no.Status, no)
		return
	}
	if !s.backup.TryLock() {
		refuse(w, http.StatusConflict, errors.New("another backup is being written"))
		return
	}
	defer s.backup.Unlock()
	entry := callerOf(r.Context()).entry("backup.make", "")
	entry.After = map[string]any{"secrets": secrets}
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
		head := backup.Head{Made: began, Program: s.o.Broker.Status(0).Version, Secrets: secrets}
		sum, err = backup.Write(r.Context(), to, backup.Source{Engine: s.o.Store, From: from, Files: s.backupFiles}, head, nil)
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
	s.o.Logger.Info("backed up", "keys", sum.Keys, "records", sum.Records, "files", sum.Files, "secrets", sum.Secrets,
		"bytes", sum.Bytes, "took", time.Since(began).Round(time.Millisecond))
}

// secretsAsked says which secrets the caller wants to be in a backup. Private keys leave
// the broker only over the socket, to who can read their files as well: a token that was
// stolen must not become a certificate authority that was.
func secretsAsked(r *http.Request) (backup.Secrets, *Problem) {
	asked := r.URL.Query().Get("secrets")
	if asked == "" {
		return backup.SecretsHashed, nil
	}
	secrets, err := backup.ParseSecrets(asked)
	if err != nil {
		return "", problem(http.StatusUnprocessableEntity, err)
	}
	if secrets == backup.SecretsAll && callerOf(r.Context()).role != local {
		return "", problem(http.StatusForbidden, errors.New("private keys are backed up over "+Socket+" only: ask on the broker's machine, or for secrets=hashed"))
	}
	return secrets, nil
}

// backupFiles are the files beside the store, as they are now.
func (s *Server) backupFiles() ([]backup.File, error) {
	var files []backup.File
	var err error
	if s.o.Audit != nil {
		if files, err = backup.AuditLog(s.o.Audit.Dir()); err != nil {
			return nil, err
		}
	}
	if s.o.CA == nil {
		return files, nil
	}
	exported, err := s.o.CA.Export()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(exported, func(a, b ca.File) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range exported {
		files = append(files, backup.Bytes(backup.CA+f.Name, f.Secret, f.Data))
	}
	return files, nil
}

// Backup asks for a backup with those secrets and lets f read it. If the stream ends
// early, the error says why, as far as the broker could tell.
func (c *Client) Backup(ctx context.Context, secrets backup.Secrets, f func(io.Reader) error) error {
	resp, err := c.do(ctx, call{method: http.MethodPost, path: at("backup"), query: query("secrets", string(secrets))})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = f(resp.Body)
	if why := resp.Trailer.Get(errorTrailer); why != "" {
		return fmt.Errorf("the broker broke it off: %s", why)
	}
	return err
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
