package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/store"
	"fairlead/trace"
)

// keeper writes to the KV, at leisure, what the journal alone holds, so that the
// journal stays short and long queues need no memory. Two goroutines work for it:
// run writes checkpoints and spills queues, bring fetches what Clients want back.
//
// What it writes may be older or newer than other things that it writes at the
// same time: each value says up to which op it knows, and a restart does the rest
// from the journal.
type keeper struct {
	broker *Broker
	engine store.Engine
	kv     store.KV
	every  time.Duration

	writing  sync.Mutex // held while a checkpoint is written; guards place
	place    store.Pos  // of the latest checkpoint
	stopping chan struct{}
	wake     chan struct{} // there is something to spill
	fetch    chan struct{} // there is something to bring
	ended    sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	sessions []*subscriber
	groups   []*group
	gone     []goneSession
	spills   []*subscriber
	brings   []*subscriber
	failing  error     // why the latest checkpoint failed; nil: it did not
	latest   time.Time // of the latest checkpoint that succeeded
}

// goneSession is a Session that has ended and stands in the KV.
type goneSession struct {
	id     mqtt.ClientID
	chunks bool // there may be some
}

const (
	// chunkBytes is about what one chunk of a queue holds, as limits count it.
	chunkBytes = 64 << 10
	// batchBytes is about what one Batch writes.
	batchBytes = 1 << 20
	// spillAbsent and spillPresent are what a Session's queue may hold in memory
	// before its middle goes to the KV: little while nobody reads it.
	spillAbsent  = 16 << 10
	spillPresent = 1 << 20
	// keepPresent is how many messages stay at hand for a connected Client.
	keepPresent = 256
)

func newKeeper(b *Broker, e store.Engine, every time.Duration) *keeper {
	if every <= 0 {
		every = 2 * time.Second
	}
	return &keeper{
		broker: b, engine: e, kv: e.KV(), every: every,
		stopping: make(chan struct{}), wake: make(chan struct{}, 1), fetch: make(chan struct{}, 1),
	}
}

func (k *keeper) start() {
	k.ended.Go(k.run) // both end with stop
	k.ended.Go(k.bring)
}

// stop ends the keeper after a last checkpoint.
func (k *keeper) stop() {
	close(k.stopping)
	k.ended.Wait()
	k.checkpoint(context.Background())
}

func (k *keeper) run() {
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for {
		select {
		case <-k.stopping:
			return
		case <-tick.C:
			if !k.writing.TryLock() {
				continue // held for a backup: spills go on, the checkpoint has time
			}
			k.checkpointLocked(context.Background())
			k.writing.Unlock()
		case <-k.wake:
			for _, s := range k.takeList(&k.spills) {
				k.spillNow(context.Background(), s)
			}
		}
	}
}

// dirty, dirtyGroup and forget note what the next checkpoint must write. They may
// be called under any lock.
func (k *keeper) dirty(s *subscriber) {
	k.mu.Lock()
	k.sessions = append(k.sessions, s)
	k.mu.Unlock()
}

func (k *keeper) dirtyGroup(g *group) {
	k.mu.Lock()
	k.groups = append(k.groups, g)
	k.mu.Unlock()
}

func (k *keeper) forget(s goneSession) {
	k.mu.Lock()
	k.gone = append(k.gone, s)
	k.mu.Unlock()
}

// wantSpill asks for the queue of the Session to go to the KV soon.
func (k *keeper) wantSpill(s *subscriber) { k.ask(&k.spills, s, k.wake) }

// wantBring asks for the next chunk of the Session's queue.
func (k *keeper) wantBring(s *subscriber) { k.ask(&k.brings, s, k.fetch) }

func (k *keeper) ask(list *[]*subscriber, s *subscriber, wake chan struct{}) {
	k.mu.Lock()
	*list = append(*list, s)
	k.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default:
	}
}

func (k *keeper) takeList(list *[]*subscriber) []*subscriber {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := *list
	*list = nil
	return out
}

// checkpoint writes all that has changed since the last one, and then lets the
// journal forget what is no longer needed.
func (k *keeper) checkpoint(ctx context.Context) {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.checkpointLocked(ctx)
}

// checkpointLocked is checkpoint for who holds writing.
func (k *keeper) checkpointLocked(ctx context.Context) {
	err := k.tryCheckpoint(ctx)
	k.mu.Lock()
	was := k.failing
	if k.failing = err; err == nil {
		k.latest = k.broker.now()
	}
	k.mu.Unlock()
	switch {
	case err != nil && was == nil:
		k.broker.logger.Error("a checkpoint failed: the journal grows until one succeeds", "err", err)
	case err == nil && was != nil:
		k.broker.logger.Warn("checkpoints succeed again")
	}
}

func (k *keeper) tryCheckpoint(ctx context.Context) error {
	b := k.broker
	place := store.Pos(b.committer.place.Load())
	number := b.committer.applied.Load()
	k.mu.Lock()
	sessions, groups := k.sessions, k.groups
	k.sessions, k.groups = nil, nil
	k.mu.Unlock()
	topics := b.retained.takeDirty()
	w := &kvWriter{ctx: ctx, kv: k.kv}
	if w.err = k.bury(ctx); w.err == nil && place == k.place && len(sessions)+len(groups)+len(topics) == 0 {
		return nil
	}
	for _, s := range sessions {
		if w.err == nil {
			w.err = k.spillBefore(ctx, s)
			k.dropStrays(w, s)
		}
		s.write(w)
	}
	for _, g := range groups {
		g.write(w, b)
	}
	b.retained.write(w, topics)
	if w.flush(); w.err == nil {
		w.err = k.bury(ctx) // what has ended before its turn: the journal is about to forget it
	}
	if w.err == nil && place != k.place {
		v := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(place)), number)
		_, w.err = k.kv.Put(ctx, checkpointKey, v, store.PutOptions{})
	}
	if w.err != nil {
		w.undo()
		k.again(sessions, groups)
		b.retained.putBack(topics)
		return w.err
	}
	j := k.engine.Journal()
	if place == k.place {
		return nil
	}
	k.place = place
	if err := j.Trim(ctx, j.Own(), place); err != nil {
		b.logger.Warn("the journal could not be trimmed", "err", err)
	}
	return nil
}

// again puts what could not be written on the list for the next time.
func (k *keeper) again(sessions []*subscriber, groups []*group) {
	for _, s := range sessions {
		s.mu.Lock()
		s.dirtyLocked()
		s.mu.Unlock()
	}
	for _, g := range groups {
		g.mu.Lock()
		g.pending.touch()
		g.dirtyLocked(k)
		g.mu.Unlock()
	}
}

// bury deletes what Sessions that have ended have left in the KV. It comes before
// anything is written for other Sessions: one of them may have the same Client
// Identifier, and so the same keys.
func (k *keeper) bury(ctx context.Context) error {
	gone := k.takeGone()
	w := &kvWriter{ctx: ctx, kv: k.kv}
	for _, g := range gone {
		w.add(store.Op{Key: sessionKey(g.id), Delete: true})
		if g.chunks {
			w.add(store.Op{Key: chunkKey(g.id, 0), Delete: true, DeleteTo: chunkKey(g.id, math.MaxUint64)})
		}
	}
	if w.flush(); w.err != nil {
		k.mu.Lock()
		k.gone = append(gone, k.gone...)
		k.mu.Unlock()
	}
	return w.err
}

func (k *keeper) takeGone() []goneSession {
	k.mu.Lock()
	defer k.mu.Unlock()
	gone := k.gone
	k.gone = nil
	return gone
}

// dropStrays deletes, once after a start, chunks behind the queue of the Session:
// a crash came between them and what would have told of them.
func (k *keeper) dropStrays(w *kvWriter, s *subscriber) {
	s.mu.Lock()
	strays, next := s.strays && !s.gone, s.nextChunk
	s.mu.Unlock()
	if !strays {
		return
	}
	after := ""
	if next > 0 {
		after = chunkKey(s.state.ID, next-1)
	}
	found, err := k.kv.List(w.ctx, chunkKeys(s.state.ID), after, 1)
	if err != nil {
		return // the next time
	}
	if len(found) > 0 {
		w.add(store.Op{Key: chunkKey(s.state.ID, next), Delete: true, DeleteTo: chunkKey(s.state.ID, math.MaxUint64)})
		w.flush() // before a spill writes there
	}
	if w.err == nil {
		s.mu.Lock()
		s.strays = false
		s.mu.Unlock()
	}
}

// kvWriter gathers changes into batches. After an error it does nothing more.
type kvWriter struct {
	ctx     context.Context
	kv      store.KV
	ops     []store.Op
	bytes   int
	err     error
	deletes []deletes // of chunks, among all that has been added
}

// deletes are those of the chunks from the given one on of a Session.
type deletes struct {
	of   *subscriber
	from uint64
}

// undo notes that nothing may have come of the deletes.
func (w *kvWriter) undo() {
	for _, d := range w.deletes {
		d.of.mu.Lock()
		d.of.deleted = min(d.of.deleted, d.from)
		d.of.mu.Unlock()
	}
}

func (w *kvWriter) add(op store.Op) {
	w.ops = append(w.ops, op)
	if w.bytes += len(op.Key) + len(op.Value); w.bytes >= batchBytes {
		w.flush()
	}
}

func (w *kvWriter) flush() {
	if w.err == nil && len(w.ops) > 0 {
		w.err = w.kv.Batch(w.ctx, w.ops)
	}
	clear(w.ops)
	w.ops, w.bytes = w.ops[:0], 0
}

// The keys of the KV.
const (
	sessionPrefix  = "s/"
	chunkPrefix    = "q/"
	retainedPrefix = "r/"
	sharePrefix    = "g/"
	checkpointKey  = "node/ckpt"
	epochKey       = "node/epoch"
)

func sessionKey(id mqtt.ClientID) string { return sessionPrefix + string(id) }

// chunkKeys is what the keys of a queue's chunks begin with. A Client Identifier
// holds no U+0000.
func chunkKeys(id mqtt.ClientID) string { return chunkPrefix + string(id) + "\x00" }

// chunkKey is the key of a queue's n-th chunk.
func chunkKey(id mqtt.ClientID, n uint64) string {
	b := make([]byte, 0, len(chunkPrefix)+len(id)+9)
	b = append(append(append(b, chunkPrefix...), id...), 0)
	return string(binary.BigEndian.AppendUint64(b, n))
}

// write puts the Session into the writer as it is now.
func (s *subscriber) write(w *kvWriter) {
	s.mu.Lock()
	s.dirty = false
	if s.gone || !s.recorded {
		s.mu.Unlock()
		return
	}
	image := s.imageLocked()
	from, to := s.deleted, s.firstChunk
	s.deleted = to
	s.mu.Unlock()
	w.add(store.Op{Key: sessionKey(image.Client), Value: journal.AppendSession(nil, image)})
	if from < to {
		w.deletes = append(w.deletes, deletes{s, from})
		w.add(store.Op{Key: chunkKey(image.Client, from), Delete: true, DeleteTo: chunkKey(image.Client, to)})
	}
}

// imageLocked is the Session as a checkpoint keeps it. Messages of Shared
// Subscriptions are the group's to keep, but for QoS 2 under way, and those that the
// Session has kept when it left a group without lasting members.
func (s *subscriber) imageLocked() *journal.Session {
	away, awayBytes := s.state.Away()
	j := &journal.Session{
		Client: s.state.ID, Upto: max(s.broker.committer.applied.Load(), s.number), Expiry: s.state.Expiry,
		Online: s.rest.online, WillAt: s.rest.willAt, EndsAt: s.rest.endsAt, Will: writtenWill(s.rest.will),
		Taken: s.state.Taken(), Doubtful: s.state.Doubtful(), NextID: s.state.NextSeq(), FirstChunk: s.firstChunk, NextChunk: s.nextChunk,
		Spilled: uint64(away), SpilledBytes: uint64(awayBytes), Owed: s.owedLocked(), Owner: s.owner,
	}
	for sub := range s.state.Subscriptions() {
		j.Subscriptions = append(j.Subscriptions, writtenSubscription(sub))
	}
	for h := range s.state.Flight() {
		f := journal.InFlight{Seq: h.Seq, Released: h.Released}
		if !h.Released {
			if h.QoS < mqtt.QoS2 && s.broker.owed(h.Delivery) {
				continue
			}
			f.Delivery = written(h.Delivery)
		}
		j.Flight = append(j.Flight, f)
	}
	add := func(to *[]journal.Delivery, d session.Delivery) {
		if !s.broker.owed(d) {
			*to = append(*to, written(d))
		}
	}
	for d := range s.state.Unmarked() {
		add(&j.Queue, d)
	}
	for d := range s.state.Waiting(false) {
		add(&j.Queue, d)
	}
	if away == 0 {
		for d := range s.state.Waiting(true) {
			add(&j.Queue, d)
		}
		return j
	}
	for d := range s.state.Waiting(true) {
		add(&j.Tail, d)
	}
	return j
}

func shared(d session.Delivery) bool { return d.Via != nil && d.Via.Share != "" }

func writtenWill(w *session.Will) *journal.Will {
	if w == nil {
		return nil
	}
	return &journal.Will{Message: w.Message, HasExpiry: w.HasExpiry, Expiry: w.Expiry, Delay: w.Delay}
}

func writtenSubscription(s *session.Subscription) journal.Subscription {
	return journal.Subscription{
		Filter: s.Filter.String(), QoS: s.QoS, NoLocal: s.NoLocal,
		RetainAsPublished: s.RetainAsPublished, RetainHandling: s.RetainHandling, ID: s.ID,
	}
}

// spillBefore spills the queue of a Session that is about to be written, if it is
// long for what its Client does, or memory is short.
func (k *keeper) spillBefore(ctx context.Context, s *subscriber) error {
	s.mu.Lock()
	here := s.hereLocked()
	away, _ := s.state.Away()
	absent := s.conn == nil
	s.mu.Unlock()
	switch {
	case here == 0:
		return nil
	case absent && (here >= spillAbsent || away > 0 || k.broker.inMemory() > k.broker.limits.QueuedMemory/4):
	case here >= spillPresent:
	default:
		return nil
	}
	return k.spill(ctx, s)
}

// hereLocked is what the queue holds in memory, in bytes.
func (s *subscriber) hereLocked() int {
	_, bytes := s.state.Queued()
	_, away := s.state.Away()
	return bytes - away
}

// spillNow spills a queue that has become long. After a failure it is asked again
// later, and by nobody else, because spilling stays set.
func (k *keeper) spillNow(ctx context.Context, s *subscriber) {
	err := k.spill(ctx, s)
	if err == nil {
		return
	}
	k.broker.logger.Warn("a queue could not be moved to disk", "client", s.state.ID, "err", err)
	time.AfterFunc(retryEvery, func() { k.wantSpill(s) })
}

// spill writes the queue of the Session to the KV, but for what is kept at hand.
func (k *keeper) spill(ctx context.Context, s *subscriber) error {
	for {
		s.mu.Lock()
		keep := keepPresent
		if s.conn == nil {
			keep = 0
		}
		var ops []store.Op
		var ds []session.Delivery
		if !s.gone && s.recorded {
			ds = s.state.Leaving(nil, keep, batchBytes)
		}
		next := s.nextChunk
		if len(ds) == 0 {
			s.spilling = false
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		for rest := ds; len(rest) > 0; {
			n := chunkLen(rest)
			ops = append(ops, store.Op{Key: chunkKey(s.state.ID, next), Value: appendChunk(rest[:n])})
			rest = rest[n:]
			next++
		}
		err := k.bury(ctx)
		if err == nil {
			err = k.kv.Batch(ctx, ops)
		}
		s.mu.Lock()
		if err != nil {
			s.state.Left(0)
			s.mu.Unlock()
			return err
		}
		n, bytes := s.state.Away()
		if n == 0 {
			s.awaySince = ds[0].Message.Received
		}
		s.state.Left(len(ds))
		_, after := s.state.Away()
		if !s.gone {
			k.broker.away.Add(int64(after - bytes))
		}
		s.nextChunk = next
		if s.gone { // it ended meanwhile, and has not told of these chunks
			k.forget(goneSession{s.state.ID, true})
		}
		s.dirtyLocked()
		if s.state.Wants() {
			s.wantBringLocked()
		}
		s.mu.Unlock()
	}
}

// chunkLen is how many of the deliveries make a chunk.
func chunkLen(ds []session.Delivery) int {
	bytes := 0
	for i := range ds {
		if bytes += ds[i].Message.Size(); bytes >= chunkBytes {
			return i + 1
		}
	}
	return len(ds)
}

func appendChunk(ds []session.Delivery) []byte {
	out := make([]journal.Delivery, len(ds))
	for i, d := range ds {
		out[i] = written(d)
	}
	return journal.AppendChunk(nil, out)
}

// wantBringLocked asks once for the next chunk.
func (s *subscriber) wantBringLocked() {
	if !s.bringing && s.broker.keeper != nil {
		s.bringing = true
		s.broker.keeper.wantBring(s)
	}
}

// bring fetches chunks for those who want them.
func (k *keeper) bring() {
	for {
		select {
		case <-k.stopping:
			return
		case <-k.fetch:
			for _, s := range k.takeList(&k.brings) {
				k.bringOne(s)
			}
		}
	}
}

// bringOne fetches the next chunk of the Session's queue and lets it go on.
func (k *keeper) bringOne(s *subscriber) {
	s.mu.Lock()
	n := s.firstChunk
	away, _ := s.state.Away()
	if s.gone || away == 0 {
		s.bringing = false
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	ds, err := k.readChunk(s.state.ID, n)
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrDamaged) {
		k.broker.logger.Warn("a queue could not be read from disk", "client", s.state.ID, "err", err)
		time.AfterFunc(retryEvery, func() { k.wantBring(s) })
		return
	}
	w := newWork(k.broker.now())
	s.mu.Lock()
	s.bringing = false
	switch {
	case s.gone: // and its chunks may be, too
	case err != nil:
		lost := s.forgetAwayLocked()
		k.broker.Outcomes[trace.DroppedDamaged].Add(uint64(lost))
		k.broker.logger.Error("messages of a queue are lost: what is on disk is damaged", "client", s.state.ID, "messages", lost, "chunk", n, "err", err)
	default:
		_, before := s.state.Away()
		s.state.Back(ds)
		_, after := s.state.Away()
		k.broker.away.Add(int64(after - before))
		s.firstChunk++
		s.awaySince = ds[len(ds)-1].Message.Received // at most that old is the next
	}
	s.dirtyLocked()
	s.pumpLocked(w.now)
	if s.conn != nil && s.conn.len() > 0 {
		s.conn.scheduleLocked(w)
	}
	s.mu.Unlock()
	w.finish(k.broker)
}

// forgetAwayLocked gives up what of the queue is on disk.
func (s *subscriber) forgetAwayLocked() (lost int) {
	b := s.broker
	_, bytes := s.state.Away()
	lost = s.state.Forget()
	b.away.Add(int64(-bytes))
	b.queued.Add(int64(-bytes))
	b.QueuedMessages.Add(int64(-lost))
	s.firstChunk = s.nextChunk
	return lost
}

func (k *keeper) readChunk(id mqtt.ClientID, n uint64) ([]session.Delivery, error) {
	e, err := k.kv.Get(context.Background(), chunkKey(id, n))
	if err != nil {
		return nil, err
	}
	js, err := journal.ReadChunk(e.Value)
	if err != nil {
		return nil, errors.Join(store.ErrDamaged, err)
	}
	ds := make([]session.Delivery, len(js))
	for i := range js {
		ds[i] = read(&js[i])
	}
	return ds, nil
}

// write puts the messages that the group still owes somebody into the writer.
func (g *group) write(w *kvWriter, b *Broker) {
	g.mu.Lock()
	g.dirty = false
	upto := max(b.committer.applied.Load(), g.number)
	ops := g.pending.write(g.filter, b.now())
	keep := g.durable.Load()
	g.mu.Unlock()
	if !keep {
		if now := b.router.share(g.filter); now == nil || now == g || !now.durable.Load() { // else the keys are that one's
			w.add(store.Op{Key: sharePrefix + g.filter, Delete: true})
			w.add(dropPages(g.filter))
		}
		return
	}
	for _, op := range ops {
		w.add(op)
	}
	// Last: it says up to where the pages know the journal.
	w.add(store.Op{Key: sharePrefix + g.filter, Value: journal.AppendSession(nil, &journal.Session{Upto: upto})})
}
