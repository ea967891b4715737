package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/broker"
	"fairlead/client"
	"fairlead/device"
	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/store"
	"fairlead/store/backup"
	"fairlead/store/mem"
	"fairlead/store/storetest"
)

// stub is a Broker of which a test says everything.
type stub struct {
	status   broker.Status
	held     func() // called within Hold
	members  []broker.Member
	retained []string

	mu   sync.Mutex // guards what follows
	sent []string   // Disconnect: "CLIENT CODE WHY"
}

func (s *stub) Members() []broker.Member        { return s.members }
func (s *stub) RetainedNames(most int) []string { return s.retained[:min(most, len(s.retained))] }
func (s *stub) Serve(nc listen.Conn)            { nc.Close() }

func (s *stub) Disconnect(id mqtt.ClientID, code mqtt.ReasonCode, why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, fmt.Sprintf("%s %#x %s", id, byte(code), why))
	return slices.ContainsFunc(s.members, func(m broker.Member) bool { return m.Client == id && m.Connected })
}

func (s *stub) Status(most int) broker.Status {
	st := s.status
	st.Biggest = st.Biggest[:min(most, len(st.Biggest))]
	return st
}

func (s *stub) Hold(_ context.Context, f func(store.Pos) error) error {
	if s.held != nil {
		s.held()
	}
	return f(0)
}

func open(t testing.TB, o Options) (*Server, *Client) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c, err := Dial(t.Context(), o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, Options{Dir: dir, Broker: &stub{}})
	info, err := os.Stat(filepath.Join(dir, Socket))
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v, want mode 0600", info.Mode(), err)
	}
	if _, err := Open(Options{Dir: dir, Broker: &stub{}}); err == nil || !strings.Contains(err.Error(), "another broker listens") {
		t.Errorf("a second Open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("after Close: %v, %v, want nothing", left, err)
	}
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Dial after Close: %v, want ErrUnreachable", err)
	}
}

// TestStaleSocket finds the socket of a process that was killed.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, Socket))
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Dial: %v, want ErrUnreachable", err)
	}
	_, c := open(t, Options{Dir: dir, Broker: &stub{status: broker.Status{Version: "7"}}})
	if st, err := c.Status(t.Context(), 1); err != nil || st.Version != "7" {
		t.Errorf("Status: %+v, %v", st, err)
	}
}

func TestNoSocketThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Socket), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, Broker: &stub{}}); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("Open: %v", err)
	}
}

// TestLongPath uses a directory whose path no Unix socket can have.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, c := open(t, Options{Dir: dir, Broker: &stub{status: broker.Status{Version: "7"}}})
		if st, err := c.Status(t.Context(), 0); err != nil || st.Version != "7" {
			t.Errorf("Status: %+v, %v", st, err)
		}
		if _, err := Open(Options{Dir: dir, Broker: &stub{}}); err == nil {
			t.Error("a second Open succeeds")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestStatus(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	var h store.Histogram
	for range 99 {
		h.Observe(500 * time.Microsecond)
	}
	h.Observe(7 * time.Millisecond)
	_, c := open(t, Options{Durability: "os", Broker: &stub{status: broker.Status{
		Version: "1.2", Began: at, Connected: 1, Sessions: 2, Subscriptions: 3, QueuedMessages: 4, QueuedBytes: 5, QueuedOnDisk: 2, Oldest: at,
		Biggest:          []broker.QueueStatus{{Client: "a", Messages: 3, Bytes: 4, Oldest: at, Online: true}, {Client: "b", Messages: 1}},
		RetainedMessages: 6, RetainedBytes: 7,
		Refused: map[mqtt.ReasonCode]uint64{mqtt.QuotaExceeded: 8},
		Store: &broker.StoreStatus{Stats: store.Stats{JournalRecords: 9, FreeBytes: -1, SyncLatency: h},
			JournalErr: syscall.ENOSPC, Since: at, CheckpointErr: syscall.EIO},
	}}})
	st, err := c.Status(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if st.Connections != 1 || st.Sessions != 2 || st.Subscriptions != 3 || st.Queued.Messages != 4 || st.Queued.DiskBytes != 2 ||
		!st.Queued.Oldest.Equal(at) || st.Retained != (Retained{6, 7}) || st.Durability != "os" || st.Refused["0x97 Quota exceeded"] != 8 {
		t.Errorf("Status: %+v", st)
	}
	if len(st.Biggest) != 1 || st.Biggest[0].Client != "a" || !st.Biggest[0].Online {
		t.Errorf("biggest queues: %+v, want a", st.Biggest)
	}
	if want := (Latency{Count: 100, P50: 512, P99: 512, Max: 8192}); st.Store == nil || st.Store.Sync != want || st.Store.Checkpoint != nil {
		t.Errorf("store: %+v, want latencies %+v", st.Store, want)
	}
	if len(st.Trouble) != 2 || st.Trouble[0].What != "journal" || !st.Trouble[0].Since.Equal(at) || st.Trouble[1].What != "checkpoint" {
		t.Errorf("trouble: %+v, want journal and checkpoint", st.Trouble)
	}
	if _, err := c.Status(t.Context(), topMax+1); err == nil || !strings.Contains(err.Error(), "whole number") {
		t.Errorf("too many queues: %v", err)
	}
}

// TestDiskTrouble lets a broker's disk fail.
func TestDiskTrouble(t *testing.T) {
	f := storetest.NewFaulty(mem.New())
	b, err := broker.Open(t.Context(), broker.Options{Store: f, CheckpointEvery: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, c := open(t, Options{Broker: b, Store: f, Durability: "fsync"})
	await := func(what string) *Status {
		t.Helper()
		for {
			st, err := c.Status(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(st.Trouble) == 0 && what == "" || len(st.Trouble) > 0 && st.Trouble[0].What == what {
				return st
			}
		}
	}
	await("")
	f.FailAppends(storetest.All, syscall.ENOSPC)
	durable := connect(t, b)
	if st := await("journal"); !strings.Contains(st.Trouble[0].Error, "no space left") || st.Trouble[0].Since == nil {
		t.Errorf("trouble: %+v", st.Trouble)
	}
	f.FailAppends(0, nil)
	durable()
	await("")
	if err := b.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

// connect begins to open a session that must be kept, again and again; the func it
// returns waits until that has succeeded.
func connect(t *testing.T, b *broker.Broker) (wait func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with ln
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go b.Serve(listen.Wrap(nc, listen.Info{Remote: nc.RemoteAddr()})) // ends with the connection
		}
	}()
	done := make(chan struct{})
	go func() { // ends once a connect succeeds
		defer close(done)
		defer ln.Close()
		for {
			c, err := client.Dial(t.Context(), client.Options{URL: "mqtt://" + ln.Addr().String(), ClientID: "durable", SessionExpiry: time.Hour})
			if err == nil {
				if err := c.Disconnect(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
				return
			}
			if t.Context().Err() != nil {
				return
			}
		}
	}()
	return func() { <-done }
}

func TestBackup(t *testing.T) {
	e := mem.New()
	if _, err := e.KV().Put(t.Context(), "s/a", bytes.Repeat([]byte("large"), 1<<20), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, Options{Broker: &stub{status: broker.Status{Version: "7"}}, Store: e})
	var sum backup.Summary
	err := c.Backup(t.Context(), backup.SecretsHashed, func(r io.Reader) (err error) {
		sum, err = backup.Verify(t.Context(), r, nil)
		return err
	})
	if err != nil || sum.Keys != 1 || sum.Program != "7" {
		t.Errorf("Backup: %+v, %v", sum, err)
	}
}

// TestBackupSecrets makes backups with more and fewer secrets, by both doors.
func TestBackupSecrets(t *testing.T) {
	f := newFixture(t)
	remote := f.remote(t, f.user(t, device.User{Name: "ann", Role: auth.RoleAdmin}), nil)
	for _, c := range []struct {
		client  *Client
		secrets backup.Secrets
		leftOut bool
	}{
		{f.local, backup.SecretsAll, false}, {f.local, backup.SecretsHashed, true}, {f.local, backup.SecretsNone, true},
		{remote, backup.SecretsHashed, true}, {remote, backup.SecretsNone, true},
	} {
		var sum backup.Summary
		err := c.client.Backup(t.Context(), c.secrets, func(r io.Reader) (err error) {
			sum, err = backup.Verify(t.Context(), r, nil)
			return err
		})
		if err != nil || sum.Secrets != c.secrets || !sum.CA || sum.Files < 3 || c.leftOut != slices.Contains(sum.LeftOut, "ca/root.key") {
			t.Errorf("%s over %s: %+v, %v", c.secrets, c.client.where, sum, err)
		}
	}
	want(t, "private keys over HTTPS", remote.Backup(t.Context(), backup.SecretsAll, nil), 403, Socket)
	want(t, "other secrets", f.local.Backup(t.Context(), "some", nil), 422, "some")
	if e := f.entries(t, audit.Query{Action: "backup.make", Kind: audit.Act}); len(e) != 5 || e[4].Actor.Name != "ann" {
		t.Errorf("entries %+v", e)
	}
}

func TestNothingToBackUp(t *testing.T) {
	_, c := open(t, Options{Broker: &stub{}})
	if err := c.Backup(t.Context(), backup.SecretsHashed, nil); err == nil || !strings.Contains(err.Error(), "--durability memory") {
		t.Errorf("Backup: %v", err)
	}
}

// TestBackupFails lets a backup fail at once, and in the middle: both times the caller
// hears why.
func TestBackupFails(t *testing.T) {
	f := storetest.NewFaulty(mem.New())
	if _, err := f.KV().Put(t.Context(), "s/a", bytes.Repeat([]byte("large"), 1<<20), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Journal().Append(t.Context(), []byte("one")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Journal().Append(t.Context(), []byte("two")); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, Options{Broker: &stub{}, Store: f})
	read := func(r io.Reader) error {
		_, err := backup.Verify(t.Context(), r, nil)
		return err
	}
	f.FailKV(storetest.All, syscall.EIO)
	if err := c.Backup(t.Context(), backup.SecretsHashed, read); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a backup that fails at once: %v", err)
	}
	f.FailKV(0, nil)
	if err := f.Journal().Trim(t.Context(), f.Journal().Own(), 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Backup(t.Context(), backup.SecretsHashed, read); err == nil || !strings.Contains(err.Error(), "it begins with record 2") {
		t.Errorf("a backup that fails in the middle: %v", err)
	}
}

// TestCloseEndsABackup closes the server while its backup waits for a slow caller.
func TestCloseEndsABackup(t *testing.T) {
	e := mem.New()
	for _, key := range []string{"a", "b", "c", "d"} {
		if _, err := e.KV().Put(t.Context(), key, make([]byte, 8<<20), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s, c := open(t, Options{Broker: &stub{}, Store: e})
	err := c.Backup(t.Context(), backup.SecretsHashed, func(r io.Reader) error {
		if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
			t.Error(err)
		}
		if err := c.Backup(t.Context(), backup.SecretsHashed, nil); err == nil || !strings.Contains(err.Error(), "another backup") {
			t.Errorf("a second backup meanwhile: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err == nil {
		t.Error("a backup that was broken off returns no error")
	}
}
