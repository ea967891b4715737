// Package broker carries an Application Message from its publisher to its
// subscribers. Begin with [Broker.Serve], which lives as long as one Network
// Connection, and with publish.go, the way of one PUBLISH from top to bottom.
//
// Nothing in it waits for a Client that is slow: each Session has a queue and
// an outbox with limits, and each limit has a reaction (see [Limits]).
package broker

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/store"
	"fairlead/trace"
)

// Limits are what Clients may make the broker hold.
type Limits struct {
	session.Limits
	// Connections is how many there may be at a time; beyond it a connection is
	// closed before a byte is read. 0: no limit.
	Connections int
	// Sessions is how many there may be, with and without a connection; beyond
	// it a CONNECT that needs a new one is refused with 0x97. 0: no limit.
	Sessions int
	// ConnectTimeout is the longest time from the accepted connection to a
	// complete CONNECT. Beyond it the connection is closed.
	ConnectTimeout time.Duration
	// OutboxBytes is how much may be encoded and not yet written for a Client.
	// Beyond it QoS 0 messages are dropped, and the broker reads nothing more
	// from this Client until it reads.
	OutboxBytes int
	// QueuedBytes is what the queues of all Sessions may hold together, and
	// QueuedMemory is how much of that may be in memory; without a store all of it
	// is. Beyond it, messages that would have to wait are refused as if each queue
	// were full.
	QueuedBytes  int64
	QueuedMemory int64
	// DropOldest makes a full queue give up the message that has waited longest,
	// instead of refusing the new one.
	DropOldest bool
	// RetainedMessages and RetainedBytes bound the retained store. Beyond them a
	// new Retained Message is refused with 0x97; QoS 0 is delivered, not retained.
	RetainedMessages int
	RetainedBytes    int64
	// TopicLevels is how many levels a Topic Filter or Topic Name may have; 0:
	// any. Beyond it the answer is that the topic is invalid.
	TopicLevels int
}

// DefaultLimits are the limits of a broker that is told nothing.
func DefaultLimits() Limits {
	return Limits{
		Limits: session.Limits{
			ReceiveMaximum: 1024, TopicAliasMaximum: 64, PacketBytes: 8 << 20,
			ExpiryMax: session.ExpiryNever, WillDelayMax: math.MaxUint32,
			InFlight: 1000, AliasesOut: 64, Subscriptions: 100_000,
			QueueMessages: 1_000_000, QueueBytes: 1 << 30,
		},
		Sessions: 1_000_000, ConnectTimeout: 10 * time.Second, OutboxBytes: 1 << 20, QueuedBytes: 16 << 30, QueuedMemory: 1 << 30,
		RetainedMessages: 1_000_000, RetainedBytes: 1 << 30,
	}
}

// Options are what a Broker needs to know. The zero Options serve: everything
// is allowed, with the default limits, and nothing is logged or traced.
type Options struct {
	Limits    *Limits       // nil: DefaultLimits
	Admission Admission     // nil: all is allowed
	Auth      Authenticator // nil: nobody is asked who they are
	Trace     *trace.Hooks  // nil: nobody listens
	Logger    *slog.Logger  // nil: nothing is logged
	SysEvery  time.Duration // how often $SYS is published; 0: never
	// SysMore is what others have to say there: topics below $SYS/broker and their
	// values. nil: nothing.
	SysMore func() map[string]string
	Version string // for $SYS/broker/version
	// Store keeps what must survive; nil: all is in memory. It stays the caller's to
	// close, after [Broker.Shutdown].
	Store store.Engine
	// CheckpointEvery is how often what the journal holds is written to the KV; 0:
	// every two seconds.
	CheckpointEvery time.Duration
}

// Broker holds the Sessions, the subscriptions and the Retained Messages of one
// node. Make one with [New]; all methods may be called from any goroutine.
type Broker struct {
	Counters
	limits    Limits
	admission Admission
	auth      Authenticator
	trace     trace.Hooks
	logger    *slog.Logger
	version   string
	sysMore   func() map[string]string // nil: nobody has more to say
	began     time.Time

	router   router
	retained retained
	queued   atomic.Int64 // bytes in the queues of all Sessions
	away     atomic.Int64 // bytes of them that are on disk
	silence  silence

	committer *committer // nil without a store
	keeper    *keeper    // nil without a store
	// recovering: what the journal says is being done again, and nobody is there.
	recovering bool
	stopStore  sync.Once

	mu       sync.Mutex // guards the fields below
	sessions map[mqtt.ClientID]*subscriber
	ending   map[mqtt.ClientID]int // Sessions that have ended, but not on record yet
	conns    map[*conn]struct{}
	stopping bool
	serving  sync.WaitGroup // one for each Serve, and for the goroutines that end Sessions
	stopSys  func()
}

// New returns a Broker that keeps everything in memory. [Broker.Shutdown] ends it.
func New(o Options) *Broker {
	b := newBroker(o)
	b.stopSys = b.publishSys(o.SysEvery)
	return b
}

// Open returns a Broker with what o.Store holds of earlier ones. It returns once
// all of that is in place.
func Open(ctx context.Context, o Options) (*Broker, error) {
	if o.Store == nil {
		return New(o), nil
	}
	b := newBroker(o)
	b.committer = newCommitter(b, o.Store.Journal())
	b.keeper = newKeeper(b, o.Store, o.CheckpointEvery)
	if err := b.recover(ctx); err != nil {
		return nil, err
	}
	b.committer.start()
	b.keeper.start()
	b.resume()
	b.stopSys = b.publishSys(o.SysEvery)
	return b, nil
}

func newBroker(o Options) *Broker {
	b := &Broker{
		limits: DefaultLimits(), admission: o.Admission, auth: o.Auth, logger: o.Logger, version: o.Version, sysMore: o.SysMore,
		began: time.Now(), sessions: make(map[mqtt.ClientID]*subscriber), ending: make(map[mqtt.ClientID]int), conns: make(map[*conn]struct{}),
	}
	if o.Limits != nil {
		b.limits = *o.Limits
	}
	if o.Trace != nil {
		b.trace = *o.Trace
	}
	if b.logger == nil {
		b.logger = slog.New(slog.DiscardHandler)
	}
	b.router.levels = b.limits.TopicLevels
	return b
}

// Shutdown ends the broker: each Client is told that the server shuts down
// (0x8B) and its connection closed; connections that come later are refused.
// It returns when all have ended, or with ctx's error when ctx ends first, and
// may be called more than once.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	b.stopping = true
	conns := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		conns = append(conns, c)
	}
	b.mu.Unlock()
	b.stopSys()
	for _, c := range conns {
		c.kick(mqtt.ServerShuttingDown, "the broker shuts down")
	}
	ended := make(chan struct{})
	go func() { // ends with the last connection
		b.serving.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		for _, c := range conns {
			c.nc.Close()
		}
		return ctx.Err()
	}
	b.silence.stop()
	b.stopTimers()
	b.stopStore.Do(func() {
		if b.committer != nil {
			b.committer.stop()
			b.keeper.stop()
		}
	})
	return nil
}

// stopTimers stops what waits for absent Clients, so that nothing is left behind.
func (b *Broker) stopTimers() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		s.stopTimer()
	}
}

// enter registers a connection; false if there are too many, or the broker is
// shutting down.
func (b *Broker) enter(c *conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping || b.limits.Connections > 0 && len(b.conns) >= b.limits.Connections {
		return false
	}
	b.serving.Add(1)
	b.conns[c] = struct{}{}
	return true
}

func (b *Broker) leave(c *conn) {
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
	b.serving.Done()
}

// spawn runs f in a goroutine that Shutdown waits for; not at all once the
// broker is shutting down.
func (b *Broker) spawn(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopping {
		b.serving.Go(f)
	}
}
