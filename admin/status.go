package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"fairlead/broker"
	"fairlead/mqtt"
)

// Status is how a broker fares, as JSON.
type Status struct {
	Version    string    `json:"version"`
	Began      time.Time `json:"began"`
	Now        time.Time `json:"now"` // when this was found
	Data       string    `json:"data"`
	Durability string    `json:"durability"` // fsync, os or memory
	// Trouble is what needs somebody's attention; empty: nothing.
	Trouble []Trouble `json:"trouble" nullable:"false"`

	Connections   int64 `json:"connections"`
	Sessions      int64 `json:"sessions"`
	Subscriptions int64 `json:"subscriptions"`

	Queued   Queued   `json:"queued"`
	Biggest  []Queue  `json:"biggest_queues" nullable:"false"`
	Retained Retained `json:"retained"`

	Dropped map[string]uint64 `json:"dropped"` // messages that a session did not get, by reason
	Refused map[string]uint64 `json:"refused"` // by Reason Code: "0x97 Quota exceeded"
	Ended   map[string]uint64 `json:"ended"`   // connections, by Reason Code

	Store *Store `json:"store"` // null: all is in memory
}

// TransformSchema says that there may be no store.
func (*Status) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Properties["store"] = &huma.Schema{OneOf: []*huma.Schema{s.Properties["store"], {Type: "null"}}}
	return s
}

// Trouble is something that is not as it should be.
type Trouble struct {
	What  string     `json:"what"` // journal, store or checkpoint
	Means string     `json:"means"`
	Error string     `json:"error"`
	Since *time.Time `json:"since,omitempty"`
}

// Queued is what waits in all sessions together.
type Queued struct {
	Messages  int64      `json:"messages"`
	Bytes     int64      `json:"bytes"`
	DiskBytes int64      `json:"disk_bytes"` // of Bytes
	Oldest    *time.Time `json:"oldest,omitempty"`
}

// Queue is the queue of one session.
type Queue struct {
	Client    string     `json:"client"`
	Online    bool       `json:"online"`
	Messages  int        `json:"messages"`
	Bytes     int        `json:"bytes"`
	DiskBytes int        `json:"disk_bytes"`
	InFlight  int        `json:"in_flight"`
	Oldest    *time.Time `json:"oldest,omitempty"`
}

// Retained are the Retained Messages.
type Retained struct {
	Messages int   `json:"messages"`
	Bytes    int64 `json:"bytes"`
}

// Store is how what must survive fares.
type Store struct {
	JournalRecords uint64 `json:"journal_records"`
	JournalBytes   int64  `json:"journal_bytes"`
	KVBytes        int64  `json:"kv_bytes"`
	FreeBytes      int64  `json:"free_bytes"` // -1: unknown

	Appends       uint64 `json:"appends"` // since the start, as the next two
	AppendedBytes uint64 `json:"appended_bytes"`
	WrittenBytes  uint64 `json:"written_bytes"`

	// Sync is how long making a record durable took, each an upper bound.
	Sync Latency `json:"sync"`
	// Checkpoint is when the latest one succeeded.
	Checkpoint *time.Time `json:"checkpoint,omitempty"`
}

// Latency are quantiles, in microseconds.
type Latency struct {
	Count uint64 `json:"count"`
	P50   int64  `json:"p50_us"`
	P99   int64  `json:"p99_us"`
	Max   int64  `json:"max_us"`
}

func newStatus(b broker.Status) *Status {
	s := &Status{
		Version: b.Version, Began: b.Began, Now: time.Now(), Trouble: []Trouble{},
		Connections: b.Connected, Sessions: b.Sessions, Subscriptions: b.Subscriptions,
		Queued:   Queued{Messages: b.QueuedMessages, Bytes: b.QueuedBytes, DiskBytes: b.QueuedOnDisk, Oldest: some(b.Oldest)},
		Biggest:  []Queue{},
		Retained: Retained{Messages: b.RetainedMessages, Bytes: b.RetainedBytes},
		Dropped:  b.Dropped, Refused: named(b.Refused), Ended: named(b.Ended),
	}
	for _, q := range b.Biggest {
		s.Biggest = append(s.Biggest, Queue{
			Client: string(q.Client), Online: q.Online, Messages: q.Messages, Bytes: q.Bytes,
			DiskBytes: q.OnDisk, InFlight: q.InFlight, Oldest: some(q.Oldest),
		})
	}
	if s.Dropped == nil {
		s.Dropped = map[string]uint64{}
	}
	if b.Store != nil {
		s.Store = newStore(b.Store)
		s.Trouble = troubles(b.Store)
	}
	return s
}

func newStore(b *broker.StoreStatus) *Store {
	s := &Store{
		JournalRecords: b.JournalRecords, JournalBytes: b.JournalBytes, KVBytes: b.KVBytes, FreeBytes: b.FreeBytes,
		Appends: b.Appends, AppendedBytes: b.AppendedBytes, WrittenBytes: b.WrittenBytes, Checkpoint: some(b.Checkpoint),
		Sync: Latency{
			P50: b.SyncLatency.Quantile(0.5).Microseconds(), P99: b.SyncLatency.Quantile(0.99).Microseconds(),
			Max: b.SyncLatency.Quantile(1).Microseconds(),
		},
	}
	for _, n := range b.SyncLatency {
		s.Sync.Count += n
	}
	return s
}

// troubles says what is wrong with the store in words for its operator, the worst
// first.
func troubles(b *broker.StoreStatus) []Trouble {
	found := []Trouble{}
	switch {
	case b.JournalErr != nil:
		found = append(found, Trouble{
			What: "journal", Error: b.JournalErr.Error(), Since: some(b.Since),
			Means: "Nothing can be written. Messages that must be kept are refused, so their publishers know and may try again; QoS 0 goes on. Service resumes by itself.",
		})
	case b.Err != nil:
		found = append(found, Trouble{What: "store", Error: b.Err.Error(), Means: "The store is out of service, or a part of it."})
	}
	if b.CheckpointErr != nil {
		found = append(found, Trouble{
			What: "checkpoint", Error: b.CheckpointErr.Error(), Since: some(b.Checkpoint),
			Means: "Checkpoints fail. Nothing is lost, but the journal grows until one succeeds, and a start takes longer.",
		})
	}
	if b.FreeBytes == 0 {
		found = append(found, Trouble{What: "disk", Error: "no space left", Means: "Make room. The broker goes on by itself."})
	}
	return found
}

func named(counts map[mqtt.ReasonCode]uint64) map[string]uint64 {
	out := make(map[string]uint64, len(counts))
	for code, n := range counts {
		out[fmt.Sprint(code)] = n
	}
	return out
}

func (s *Server) statusRoutes(a *api) {
	add(a, "GET /v1/status", "Shows how the broker fares.", s.showStatus)
	add(a, "GET /v1/doctor", "Says what is insecure or about to end, worst first.", s.showDoctor)
	a.addRaw("GET /v1/openapi.json", "This document.", s.showDocument, "200", "application/json", "The OpenAPI document.")
	a.addRaw("POST /v1/backup", "Makes a backup. If it fails when its stream has begun it ends early, and the trailer "+errorTrailer+" says why.",
		s.writeBackup, "200", "application/octet-stream", "The backup.", &huma.Param{
			Name: "secrets", In: "query", Description: "Which secrets it holds: none; hashed, what is kept of passwords and tokens; all, private keys as well, over " + Socket + " only.",
			Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"none", "hashed", "all"}, Default: "hashed"},
		})
	a.addRaw("GET /v1/mqtt", "Makes the connection one of MQTT, with the identity of the operator. Needs the headers Connection: Upgrade and Upgrade: mqtt.",
		s.upgrade, "101", "", "From here on both sides speak MQTT.")
}

// topMax is how many of the biggest queues a status lists at most.
const topMax = 10_000

func (s *Server) showStatus(_ context.Context, in *struct {
	Top int `query:"top" default:"10" doc:"How many of the biggest queues to list, from 0 to 10000."`
}) (*answer[*Status], error) {
	if in.Top < 0 || in.Top > topMax {
		return nil, problem(http.StatusBadRequest, fmt.Errorf("top=%d: expected a whole number from 0 to %d", in.Top, topMax))
	}
	st := newStatus(s.o.Broker.Status(in.Top))
	st.Data, st.Durability = s.o.Dir, s.o.Durability
	return yes(st)
}

// severities are in the order of their weight.
var severities = []string{Danger, Warning, Advice}

func (s *Server) showDoctor(ctx context.Context, _ *struct{}) (*answer[Findings], error) {
	if s.o.Doctor == nil {
		return nil, absent("doctor")
	}
	f := Findings{Findings: list(s.o.Doctor(ctx))}
	slices.SortStableFunc(f.Findings, func(a, b Finding) int {
		return slices.Index(severities, a.Severity) - slices.Index(severities, b.Severity)
	})
	return yes(f)
}

func (s *Server) showDocument(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(s.document); err != nil {
		s.o.Logger.Debug("a description was not sent", "err", err)
	}
}
