package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/session"
	"fairlead/mqtt/topic"
	"fairlead/store"
)

// recovery puts what a store holds back in place: first what the latest
// checkpoint wrote, then what the journal says since. Each value of the checkpoint
// knows up to which op it goes, so an op may be met again and is passed over.
type recovery struct {
	b       *Broker
	work    *work
	next    uint64 // the number that the next op must have; 0: any
	epoch   uint64 // of the record before
	known   uint64 // the highest number that a value of the checkpoint knows
	replays int
	latest  []taken // of the record before
}

// taken is a QoS 2 message that a replayed op has taken.
type taken struct {
	by *subscriber
	id mqtt.PacketID
}

// recover restores the Sessions, Retained Messages and Shared Subscriptions.
func (b *Broker) recover(ctx context.Context) error {
	began := b.now()
	b.recovering = true
	b.retained.dirty = make(map[string]struct{})
	r := &recovery{b: b, work: newWork(began)}
	for _, part := range []func(context.Context) error{r.begin, r.retained, r.sessions, r.shares, r.replay} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	r.work.finish(b)
	b.recovering = false
	b.logger.Info("restored", "sessions", len(b.sessions), "retained", b.retained.len(),
		"queued", b.QueuedMessages.Load(), "replayed_ops", r.replays, "took", b.now().Sub(began).Round(time.Millisecond))
	return nil
}

// begin counts the start.
func (r *recovery) begin(ctx context.Context) error {
	kv := r.b.keeper.kv
	e, err := kv.Get(ctx, epochKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("restore: %w", err)
	}
	if len(e.Value) == 8 {
		r.b.committer.epoch = binary.BigEndian.Uint64(e.Value)
	}
	r.b.committer.epoch++
	_, err = kv.Put(ctx, epochKey, binary.BigEndian.AppendUint64(nil, r.b.committer.epoch), store.PutOptions{})
	return err
}

// each calls f for every key with the prefix.
func (r *recovery) each(ctx context.Context, prefix string, f func(name string, value []byte) error) error {
	after := ""
	for {
		page, err := r.b.keeper.kv.List(ctx, prefix, after, 1000)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		for _, e := range page {
			if err := f(e.Key[len(prefix):], e.Value); err != nil {
				return fmt.Errorf("restore %q: %w: %w; see \"fairlead store check\"", e.Key, store.ErrDamaged, err)
			}
			after = e.Key
		}
		if len(page) < 1000 {
			return nil
		}
	}
}

func (r *recovery) retained(ctx context.Context) error {
	defer r.b.retained.order()
	return r.each(ctx, retainedPrefix, func(_ string, value []byte) error {
		k, err := journal.ReadRetained(value)
		if err != nil {
			return err
		}
		k.Message.Number = k.Number
		r.known = max(r.known, k.Number)
		r.b.retained.set(k.Message)
		return nil
	})
}

func (r *recovery) sessions(ctx context.Context) error {
	err := r.each(ctx, sessionPrefix, func(_ string, value []byte) error {
		j, err := journal.ReadSession(value)
		if err != nil {
			return err
		}
		return r.restore(j)
	})
	clear(r.b.retained.dirty) // what was just read need not be written
	return err
}

// restore makes the Session that a checkpoint has written.
func (r *recovery) restore(j *journal.Session) error {
	s := r.open(j.Client, j.Expiry > 0 || !j.EndsAt.IsZero())
	s.number = j.Upto
	r.known = max(r.known, j.Upto)
	s.firstChunk, s.nextChunk = j.FirstChunk, j.NextChunk // deleted stays 0: those before may be left
	s.rest = rest{online: j.Online, will: readWill(j.Will), willAt: j.WillAt, endsAt: j.EndsAt}
	s.state.Expiry, s.state.Will = j.Expiry, s.rest.will
	s.owner = j.Owner
	past := session.Past{
		NextSeq: j.NextID, Queue: readAll(j.Queue), Tail: readAll(j.Tail),
		Away: int(j.Spilled), AwayBytes: int(j.SpilledBytes), TakenIdentifiers: j.Taken, Doubtful: j.Doubtful,
	}
	for i := range j.Flight {
		f := &j.Flight[i]
		h := session.Held{Seq: f.Seq, Released: f.Released}
		if !f.Released {
			h.Delivery = read(&f.Delivery)
		} else {
			h.QoS = mqtt.QoS2
		}
		past.Flight = append(past.Flight, h)
	}
	s.state.Restore(&past)
	n, bytes := s.state.Queued()
	r.b.QueuedMessages.Add(int64(n))
	r.b.queued.Add(int64(bytes))
	r.b.away.Add(int64(j.SpilledBytes))
	for i := range j.Subscriptions {
		if err := r.subscribe(s, &j.Subscriptions[i], 0); err != nil {
			return err
		}
	}
	for i := range j.Owed {
		o := &j.Owed[i]
		sub, err := readSubscription(&o.Subscription)
		if err != nil {
			return err
		}
		sc := r.b.retained.scan(sub)
		sc.upTo, sc.last, sc.from, sc.sent = math.MaxUint64, o.UpTo, o.From, o.Sent
		s.scans = append(s.scans, sc)
	}
	return nil
}

func readAll(js []journal.Delivery) []session.Delivery {
	ds := make([]session.Delivery, len(js))
	for i := range js {
		ds[i] = read(&js[i])
	}
	return ds
}

func readWill(w *journal.Will) *session.Will {
	if w == nil {
		return nil
	}
	return &session.Will{Message: w.Message, HasExpiry: w.HasExpiry, Expiry: w.Expiry, Delay: w.Delay}
}

// open makes an empty Session.
func (r *recovery) open(id mqtt.ClientID, durable bool) *subscriber {
	s := &subscriber{broker: r.b, durable: durable}
	s.recorded, s.hold, s.strays = true, s.holds, true
	s.state.ID = id
	r.b.sessions[id] = s
	r.b.Sessions.Add(1)
	return s
}

// subscribe makes a subscription that a checkpoint knows, or that the op with the
// number has made: then Retained Messages are still owed.
func (r *recovery) subscribe(s *subscriber, j *journal.Subscription, number uint64) error {
	sub, err := readSubscription(j)
	if err != nil {
		return err
	}
	scans := s.subscribeLocked([]*session.Subscription{sub}, number)
	if len(scans) > 0 && scans[0].last > 0 {
		scans[0].upTo = math.MaxUint64 // the number says it
		s.scans = append(s.scans, scans...)
	}
	return nil
}

// unsubscribe ends a subscription. The last lasting member of a group keeps what is
// under way to it: that may be all that the group owes.
func (r *recovery) unsubscribe(s *subscriber, filter string) {
	var owed []*mqtt.Message
	g := r.b.router.share(filter)
	if g != nil {
		owed = g.owes()
	}
	sub := s.unsubscribeLocked(filter)
	if sub == nil || g == nil || g.durable.Load() {
		return
	}
	for _, m := range owed {
		if q := min(m.QoS, sub.QoS); q > mqtt.QoS0 {
			s.queueLocked(session.Delivery{Message: m, QoS: q, Via: &session.Via{Share: filter}})
		}
	}
}

func readSubscription(j *journal.Subscription) (*session.Subscription, error) {
	f, err := topic.ParseFilter(j.Filter)
	if err != nil {
		return nil, err
	}
	return &session.Subscription{Filter: f, QoS: j.QoS, NoLocal: j.NoLocal,
		RetainAsPublished: j.RetainAsPublished, RetainHandling: j.RetainHandling, ID: j.ID}, nil
}

func (r *recovery) shares(ctx context.Context) error {
	return r.each(ctx, sharePrefix, func(name string, value []byte) error {
		filter, page := splitPageKey(name)
		var ds []journal.Delivery
		var upto uint64
		if page {
			var err error
			if ds, err = journal.ReadChunk(value); err != nil {
				return err
			}
		} else {
			j, err := journal.ReadSession(value)
			if err != nil {
				return err
			}
			ds, upto = j.Queue, j.Upto // before there were pages all of it stood there
		}
		g := r.b.router.share(filter)
		if g == nil || !g.durable.Load() { // its last lasting member has left since: the keys go, too
			(&group{broker: r.b, filter: filter}).dirtyLocked(r.b.keeper)
			return nil
		}
		g.number = max(g.number, upto)
		r.known = max(r.known, upto)
		for _, d := range ds {
			d.Message.Number = d.Number
			g.pending.add(d.Message)
		}
		if page {
			g.pending.clean(ds)
		}
		return nil
	})
}

// replay does what the journal says since the latest checkpoint.
func (r *recovery) replay(ctx context.Context) error {
	c := r.b.committer
	e, err := r.b.keeper.kv.Get(ctx, checkpointKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("restore: %w", err)
	}
	if len(e.Value) == 16 {
		r.b.keeper.place = store.Pos(binary.BigEndian.Uint64(e.Value))
		c.next = binary.BigEndian.Uint64(e.Value[8:]) + 1
	}
	c.place.Store(uint64(r.b.keeper.place))
	own := c.journal.Own()
	first, next, err := c.journal.Span(ctx, own)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	from := r.b.keeper.place + 1
	if from > next {
		// What is missing is in the checkpoint. It can be missing after a loss of power
		// without fsync, or a repair.
		r.b.logger.Warn("the journal ends before the latest checkpoint: what came after that, if anything did, is lost",
			"journal_ends", next-1, "checkpoint", r.b.keeper.place)
		from = next
		r.b.keeper.place = next - 1
		c.place.Store(uint64(next - 1))
		// Or the next start would pass over what is journaled until the next checkpoint.
		v := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(next-1)), max(c.next-1, r.known))
		if _, err := r.b.keeper.kv.Put(ctx, checkpointKey, v, store.PutOptions{}); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	if first > from && next > first {
		return fmt.Errorf("restore: %w: the journal begins at record %d, expected %d; see \"fairlead store check\"", store.ErrDamaged, first, from)
	}
	if from < next {
		if err := r.records(ctx, own, from, next-1); err != nil {
			return err
		}
	}
	r.doubt()
	// No number is given twice, even if the journal has lost its end.
	c.next = max(c.next, r.known+1)
	c.applied.Store(c.next - 1)
	return nil
}

func (r *recovery) records(ctx context.Context, own store.JournalID, from, last store.Pos) error {
	c := r.b.committer
	for rec, err := range c.journal.Tail(ctx, own, from) {
		if err == nil {
			err = r.record(rec)
		}
		if err != nil {
			return fmt.Errorf("restore the journal from record %d: %w; see \"fairlead store check\"", from, err)
		}
		c.place.Store(uint64(rec.Pos))
		if rec.Pos == last {
			return nil
		}
	}
	return fmt.Errorf("restore the journal from record %d: %w: it ends before record %d", from, store.ErrDamaged, last)
}

func (r *recovery) record(rec store.Record) error {
	h, ops, err := journal.Open(rec.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w: %w", rec.Pos, store.ErrDamaged, err)
	}
	c := r.b.committer
	if !r.follows(h) {
		return fmt.Errorf("record %d: %w: it begins with op %d, expected %d", rec.Pos, store.ErrDamaged, h.First, max(r.next, c.next))
	}
	if h.Epoch > r.epoch {
		r.doubt()
	}
	r.latest = r.latest[:0]
	r.next, r.epoch = h.First+uint64(h.Count), h.Epoch
	for {
		var op journal.Op
		ok, err := ops.Next(&op)
		if err != nil {
			return fmt.Errorf("record %d: %w: %w", rec.Pos, store.ErrDamaged, err)
		}
		if !ok {
			break
		}
		r.replays++
		if err := r.op(&op); err != nil {
			return fmt.Errorf("record %d, op %d: %w", rec.Pos, op.Number, err)
		}
	}
	c.next = max(c.next, r.next)
	return nil
}

// doubt notes of the QoS 2 messages in the last record before the node went down that
// they may have been refused: the disk may have failed after all of it was written
// ([store.Journal]). Records before the last one are known to be part of the journal.
func (r *recovery) doubt() {
	for _, t := range r.latest {
		t.by.state.Doubt(t.id)
	}
	r.latest = nil
}

// follows reports whether the record's ops are those that come next. The numbers are
// dense, but a start may leave some out: see replay.
func (r *recovery) follows(h journal.Header) bool {
	if r.next == 0 {
		return h.First <= max(r.b.committer.next, r.known+1)
	}
	return h.First == r.next || h.Epoch > r.epoch && h.First > r.next
}

// op does again what the op says has been done.
func (r *recovery) op(op *journal.Op) error {
	s := r.b.sessions[op.Client]
	switch op.Kind {
	case journal.Message:
		r.message(op, s)
		return nil
	case journal.Connect:
		r.connect(op, s)
		return nil
	case journal.Send:
		r.send(op, s)
		return nil
	case journal.Return:
		r.giveBack(op)
		return nil
	}
	if s == nil && op.Kind == journal.End {
		r.b.keeper.forget(goneSession{op.Client, true}) // it may have been spilled when it ended
	}
	if s == nil || op.Number <= s.number {
		return nil
	}
	s.number = op.Number
	s.dirtyLocked()
	switch op.Kind {
	case journal.Off:
		s.rest.online, s.rest.willAt, s.rest.endsAt = false, op.WillAt, op.EndsAt
		if op.WillAt.IsZero() {
			s.rest.will, s.state.Will = nil, nil
		}
	case journal.End:
		r.end(s)
	case journal.Subscribe:
		return r.subscribe(s, &op.Subscription, op.Number)
	case journal.Unsubscribe:
		r.unsubscribe(s, op.Subscription.Filter)
	case journal.Release:
		s.state.Release(op.ID)
	case journal.Receive:
		s.state.Pubrec(op.ID, mqtt.Success, false)
	case journal.Complete:
		s.state.Drop(op.ID)
	case journal.WillDone:
		s.rest.will, s.rest.willAt, s.state.Will = nil, time.Time{}, nil
	}
	return nil
}

func (r *recovery) connect(op *journal.Op, s *subscriber) {
	if s != nil && op.Number <= s.number {
		return
	}
	if s != nil && op.Clean {
		r.end(s)
		s = nil
	}
	if s == nil {
		s = r.open(op.Client, op.Expiry > 0)
	}
	s.number = op.Number
	s.rest, s.owner = rest{online: true, will: readWill(op.Will)}, op.Owner
	s.state.Expiry, s.state.Will = op.Expiry, s.rest.will
	s.dirtyLocked()
}

// message delivers the message again, to those who do not know it. Its route is
// found anew: nothing is said here of who is connected.
func (r *recovery) message(op *journal.Op, from *subscriber) {
	if from != nil && op.ID != 0 && op.Number > from.number {
		from.state.Take(op.ID)
		from.dirtyLocked()
		r.latest = append(r.latest, taken{from, op.ID})
	}
	op.Message.Number = op.Number
	rt, err := r.b.router.route([]byte(op.Message.Topic))
	if err != nil {
		return // more levels than are allowed now
	}
	r.b.carry(r.work, &step{message: op.Message, route: rt, from: from})
}

// send takes a message that waits into flight, as it was.
func (r *recovery) send(op *journal.Op, s *subscriber) {
	var d session.Delivery
	if op.Delivery != nil {
		d = read(op.Delivery)
	}
	if op.Share != "" {
		if g := r.b.router.share(op.Share); g != nil && op.Ref != 0 {
			if m := g.pending.get(op.Ref); m != nil && d.Message == nil {
				d = session.Delivery{Message: m, QoS: mqtt.QoS2, Via: &session.Via{Share: op.Share}}
			}
			g.settleOne(op.Ref)
		}
	}
	if s == nil || op.Number <= s.number {
		return
	}
	s.number = op.Number
	s.dirtyLocked()
	if op.Share != "" && d.Message == nil {
		return // of a group that is no more
	}
	if d.Message != nil && d.Retain && op.Share == "" && op.Ref != 0 {
		s.scannedLocked(d.Message) // only scans write a message whole that an op holds
	}
	before, bytes := s.state.Queued()
	for !s.state.Resumed(op.ID, op.Ref, d) {
		if !r.fetch(s) {
			r.b.logger.Warn("a message under way is not known any more", "client", op.Client, "packet_id", op.ID, "message", op.Ref)
			break
		}
	}
	after, left := s.state.Queued()
	r.b.QueuedMessages.Add(int64(after - before))
	r.b.queued.Add(int64(left - bytes))
}

// giveBack lets the group owe the message again. The Session that was to have it has
// ended, or is about to.
func (r *recovery) giveBack(op *journal.Op) {
	g := r.b.router.share(op.Share)
	if g == nil || !g.durable.Load() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if op.Number <= g.number {
		return
	}
	g.number = op.Number
	g.pending.add(read(op.Delivery).Message)
	g.dirtyLocked(r.b.keeper)
}

// fetch brings the next chunk of the Session's queue.
func (r *recovery) fetch(s *subscriber) bool {
	_, before := s.state.Away()
	if before == 0 {
		return false
	}
	ds, err := r.b.keeper.readChunk(s.state.ID, s.firstChunk)
	if err != nil {
		return false // found again, and reported, when the Client comes
	}
	s.state.Back(ds)
	s.firstChunk++
	_, after := s.state.Away()
	r.b.away.Add(int64(after - before))
	return true
}

func (r *recovery) end(s *subscriber) {
	for sub := range s.state.Subscriptions() {
		r.b.router.unsubscribe(s, sub)
		r.b.Subscriptions.Add(-1)
	}
	n, bytes := s.state.Queued()
	_, away := s.state.Away()
	r.b.QueuedMessages.Add(int64(-n))
	r.b.queued.Add(int64(-bytes))
	r.b.away.Add(int64(-away))
	r.b.Sessions.Add(-1)
	s.gone = true
	r.b.keeper.forget(goneSession{s.state.ID, true})
	delete(r.b.sessions, s.state.ID)
}

// resume lets time go on for the Sessions that have been restored: all are absent.
// Those that were connected have lost their connections now.
func (b *Broker) resume() {
	now := b.now()
	b.mu.Lock()
	all := make([]*subscriber, 0, len(b.sessions))
	for _, s := range b.sessions {
		all = append(all, s)
	}
	b.mu.Unlock()
	for _, s := range all {
		s.attach.Lock()
		if s.rest.online {
			s.mu.Lock() // the keeper may be looking already
			p := s.state.Disconnect(session.Ending{})
			s.mu.Unlock()
			s.will, s.willAt = p.Will, now.Add(p.WillAfter)
			if p.Ends {
				s.endsAt = now.Add(p.EndsAfter)
			}
			b.committer.later(nil, s.offOp(now))
			s.rested()
		} else {
			s.will, s.willAt, s.endsAt = s.rest.will, s.rest.willAt, s.rest.endsAt
		}
		s.mu.Lock()
		s.levelLocked()
		s.mu.Unlock()
		s.await(now)
		s.attach.Unlock()
	}
	b.router.mu.RLock()
	groups := make([]*group, 0, len(b.router.shares))
	for _, g := range b.router.shares {
		groups = append(groups, g)
	}
	b.router.mu.RUnlock()
	for _, g := range groups {
		b.handOut(g)
	}
}

// await sets the timer for what is due next, even if that is now.
func (s *subscriber) await(now time.Time) {
	next := s.endsAt
	if s.will != nil && (next.IsZero() || s.willAt.Before(next)) {
		next = s.willAt
	}
	if !next.IsZero() {
		s.timer = time.AfterFunc(max(next.Sub(now), 0), s.wake)
	}
}

// handOut gives what a group owes to its members.
func (b *Broker) handOut(g *group) {
	w := newWork(b.now())
	for _, m := range g.owes() {
		w.fan.begin(nil, w)
		w.fan.scratch, w.fan.kept, w.fan.once = *m, m, true
		b.giveShared(&w.fan, g)
	}
	w.finish(b)
}
