// Package backup writes what an engine holds into one file, and brings it back.
// Begin with [Write] and [Restore]; docs/backup.md gives the file's bytes.
//
// The file is the store as it would be found after the end of the process at one
// moment: all keys of the KV as the latest checkpoint left them, and the records of
// the journal since. Behind them stand the files of the data directory that are not the
// store's: the audit log and the certificate authority. [Secrets] says what of them, and
// of the KV, is left out because it is secret.
package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"fairlead/store"
)

// The two keys that this package reads or writes, see docs/design/journal.md. Those with
// secrets stand in secrets.go.
const (
	// checkpointKey holds two u64: the place of the last record that the checkpoint
	// covers, and the number of the last op.
	checkpointKey = "node/ckpt"
	// unfinishedKey is there while a restore is under way.
	unfinishedKey = "node/restore"
)

const (
	// pageBytes is about what is asked of the KV at a time.
	pageBytes = 4 << 20
	// pageKeys is how many keys that is at most.
	pageKeys = 1000
)

// Head is what a backup says of its making.
type Head struct {
	// Made is when it was begun: what had been acknowledged by then is in it.
	Made    time.Time `json:"made"`
	Program string    `json:"program"` // the version that made it
	// Secrets says which secrets are in it. Empty: it is of a version that knew none.
	Secrets Secrets `json:"secrets,omitempty"`
}

// Summary is what a backup holds.
type Summary struct {
	Head
	Keys    uint64 `json:"keys"`
	Records uint64 `json:"records"`
	Files   uint64 `json:"files"` // with their content
	// CA says that files of a certificate authority are in it.
	CA bool `json:"ca"`
	// SecretFiles are the names of the files in it that are secret, and LeftOut of those
	// that it is without.
	SecretFiles []string `json:"secret_files,omitempty"`
	LeftOut     []string `json:"left_out,omitempty"`
	Bytes       int64    `json:"bytes"` // of the backup, before encryption
}

// file counts a file that is in the backup with its content.
func (s *Summary) file(name string, secret bool) {
	s.Files++
	s.CA = s.CA || strings.HasPrefix(name, CA)
	if secret {
		s.SecretFiles = append(s.SecretFiles, name)
	}
}

// Source is what is backed up.
type Source struct {
	Engine store.Engine
	// From is the place in the journal that the KV covers: the records after it are
	// backed up.
	From store.Pos
	// Files lists the files beside the store, in the order of their names. It is called
	// once the store has been read: what was revoked at the CA before it was in the KV
	// is in the backup. nil: there are none.
	Files func() ([]File, error)
}

// Progress is told again and again what has been done so far.
type Progress func(Summary)

// Write writes a backup to w: the KV, the journal's records up to its present end, and
// the files. The caller sees to it that KV and journal are neither checkpointed nor
// trimmed meanwhile. Places are written as those of the journal that [Restore] will
// begin. head says which secrets are left out.
func Write(ctx context.Context, w io.Writer, from Source, head Head, progress Progress) (Summary, error) {
	if _, err := ParseSecrets(string(head.Secrets)); err != nil {
		return Summary{}, fmt.Errorf("back up: %w", err)
	}
	unfinished, err := Unfinished(ctx, from.Engine)
	if err != nil {
		return Summary{}, fmt.Errorf("back up: %w", err)
	}
	if unfinished {
		return Summary{}, fmt.Errorf("back up: %w", ErrUnfinished)
	}
	b := newWriter(w, head, progress)
	if err := b.keys(ctx, from.Engine.KV()); err != nil {
		return b.sum, fmt.Errorf("back up: %w", err)
	}
	if err := b.records(ctx, from.Engine.Journal(), from.From); err != nil {
		return b.sum, fmt.Errorf("back up the journal: %w", err)
	}
	if err := b.files(ctx, from.Files); err != nil {
		return b.sum, fmt.Errorf("back up the files: %w", err)
	}
	if err := b.end(); err != nil {
		return b.sum, fmt.Errorf("back up: %w", err)
	}
	return b.sum, nil
}

// keys writes the KV, page by page: with a million Sessions it does not fit in memory.
func (b *writer) keys(ctx context.Context, kv store.KV) error {
	after, limit := "", 16
	for {
		page, err := kv.List(ctx, "", after, limit)
		if err != nil {
			return err
		}
		bytes := 0
		for _, e := range page {
			if err := b.entry(e.Key, e.Value); err != nil {
				return err
			}
			bytes += len(e.Key) + len(e.Value)
			after = e.Key
		}
		if len(page) < limit {
			return b.flush()
		}
		limit = min(pageKeys, max(1, pageBytes*len(page)/bytes))
	}
}

// entry writes a key as the backup is to have it.
func (b *writer) entry(key string, value []byte) error {
	if key == checkpointKey {
		value = atStart(value)
	}
	if b.sum.Secrets == SecretsNone {
		left, ok, err := withoutSecrets(key, value)
		if err != nil || !ok {
			return err
		}
		value = left
	}
	return b.key(key, value)
}

// atStart is the value of checkpointKey for a journal that begins after the checkpoint.
func atStart(value []byte) []byte {
	if len(value) < 8 {
		return value
	}
	return append(make([]byte, 8), value[8:]...)
}

func (b *writer) records(ctx context.Context, j store.Journal, from store.Pos) error {
	first, next, err := j.Span(ctx, j.Own())
	if err != nil {
		return err
	}
	if from+1 >= next {
		return nil
	}
	if first > from+1 {
		return fmt.Errorf("it begins with record %d, expected %d: %w", first, from+1, store.ErrDamaged)
	}
	for rec, err := range j.Tail(ctx, j.Own(), from+1) {
		if err != nil {
			return err
		}
		if err := b.record(rec.Data); err != nil {
			return err
		}
		if rec.Pos == next-1 {
			return b.flush()
		}
	}
	return fmt.Errorf("it ends before record %d: %w", next-1, store.ErrDamaged)
}

// Covered is the place in e's journal that its latest checkpoint covers: where a
// backup of an engine that nobody works on begins.
func Covered(ctx context.Context, e store.Engine) (store.Pos, error) {
	got, err := e.KV().Get(ctx, checkpointKey)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(got.Value) < 8 {
		return 0, fmt.Errorf("%q has %d bytes, expected 16: %w", checkpointKey, len(got.Value), store.ErrDamaged)
	}
	return store.Pos(binary.BigEndian.Uint64(got.Value)), nil
}
