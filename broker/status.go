package broker

import (
	"context"
	"slices"
	"time"

	"fairlead/mqtt"
	"fairlead/store"
	"fairlead/trace"
)

// Status is how a broker fares, for the person who looks after it.
type Status struct {
	Version string
	Began   time.Time

	Connected, Sessions, Subscriptions int64

	QueuedMessages int64
	QueuedBytes    int64     // as limits count them, in memory and on disk
	QueuedOnDisk   int64     // of QueuedBytes
	Oldest         time.Time // when the message that waits longest was received; zero: none waits
	Biggest        []QueueStatus

	RetainedMessages int
	RetainedBytes    int64

	// Dropped counts the messages that some Session did not get, by reason.
	Dropped map[string]uint64
	// Refused and Ended count refusals and ended connections, by Reason Code.
	Refused map[mqtt.ReasonCode]uint64
	Ended   map[mqtt.ReasonCode]uint64

	Store *StoreStatus // nil: all is in memory
}

// QueueStatus is the queue of one Session.
type QueueStatus struct {
	Client   mqtt.ClientID
	Online   bool
	Messages int
	Bytes    int
	OnDisk   int // of Bytes
	InFlight int
	Oldest   time.Time
}

// StoreStatus is how what must survive fares.
type StoreStatus struct {
	store.Stats
	// JournalErr is why nothing can be committed, since Since; nil: all is well.
	JournalErr error
	Since      time.Time
	// CheckpointErr is why the latest checkpoint failed; nil: it did not. Checkpoint
	// is when one succeeded last.
	CheckpointErr error
	Checkpoint    time.Time
}

// Status looks at everything, and lists the most biggest queues. With a million
// Sessions it takes a fraction of a second, in which nothing stands still.
func (b *Broker) Status(most int) Status {
	st := Status{
		Version: b.version, Began: b.began,
		Connected: b.Connected.Load(), Sessions: b.Sessions.Load(), Subscriptions: b.Subscriptions.Load(),
		QueuedMessages: b.QueuedMessages.Load(), QueuedBytes: b.queued.Load(), QueuedOnDisk: b.away.Load(),
		Dropped: make(map[string]uint64), Refused: make(map[mqtt.ReasonCode]uint64), Ended: make(map[mqtt.ReasonCode]uint64),
	}
	b.retained.mu.Lock()
	st.RetainedMessages, st.RetainedBytes = b.retained.names.Len(), b.retained.bytes
	b.retained.mu.Unlock()
	for o := range b.Outcomes {
		if n := b.Outcomes[o].Load(); n > 0 && trace.Outcome(o).Dropped() {
			st.Dropped[trace.Outcome(o).String()] = n
		}
	}
	for r := range 256 {
		if n := b.refusedFor[r].Load(); n > 0 {
			st.Refused[mqtt.ReasonCode(r)] = n
		}
		if n := b.endedFor[r].Load(); n > 0 {
			st.Ended[mqtt.ReasonCode(r)] = n
		}
	}
	b.queues(&st, most)
	if b.committer != nil {
		st.Store = &StoreStatus{Stats: b.keeper.engine.Stats()}
		st.Store.Since, st.Store.JournalErr = b.committer.trouble()
		b.keeper.mu.Lock()
		st.Store.CheckpointErr, st.Store.Checkpoint = b.keeper.failing, b.keeper.latest
		b.keeper.mu.Unlock()
	}
	return st
}

// queues finds the biggest queues and the oldest message.
func (b *Broker) queues(st *Status, most int) {
	b.mu.Lock()
	all := make([]*subscriber, 0, len(b.sessions))
	for _, s := range b.sessions {
		all = append(all, s)
	}
	b.mu.Unlock()
	for _, s := range all {
		q := s.queueStatus()
		if q.Messages == 0 {
			continue
		}
		if st.Oldest.IsZero() || !q.Oldest.IsZero() && q.Oldest.Before(st.Oldest) {
			st.Oldest = q.Oldest
		}
		at, _ := slices.BinarySearchFunc(st.Biggest, q, func(a, b QueueStatus) int { return b.Bytes - a.Bytes })
		if at < most {
			st.Biggest = slices.Insert(st.Biggest, at, q)
			st.Biggest = st.Biggest[:min(len(st.Biggest), most)]
		}
	}
}

func (s *subscriber) queueStatus() QueueStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := QueueStatus{Client: s.state.ID, Online: s.conn != nil, InFlight: s.state.InFlight()}
	q.Messages, q.Bytes = s.state.Queued()
	away, awayBytes := s.state.Away()
	q.OnDisk = awayBytes
	for d := range s.state.Waiting(false) {
		q.Oldest = d.Message.Received
		return q
	}
	if away > 0 {
		q.Oldest = s.awaySince
		return q
	}
	for d := range s.state.Waiting(true) {
		q.Oldest = d.Message.Received
		break
	}
	return q
}

// Hold runs f while no checkpoint is written, so that all that the journal holds
// after the place from is needed to know what has happened, and stays there. It
// returns f's error; without a store it does not call f.
func (b *Broker) Hold(ctx context.Context, f func(from store.Pos) error) error {
	if b.keeper == nil {
		return nil
	}
	b.keeper.writing.Lock()
	defer b.keeper.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return f(b.keeper.place)
}
