package bench

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/cli"
	"fairlead/client"
)

// load is one run of a scenario.
type load struct {
	*settings
	env     *cli.Env
	options client.Options
	result  *result
	runID   uint32 // in the Client Identifiers, which differ from those of any other run
	// sessions is how many clients, from number 0 on, may have left a session.
	sessions atomic.Int64

	begin    time.Time
	meter    meter
	stop     atomic.Bool // publishers stop
	over     atomic.Bool // subscribers do, too
	accepted atomic.Uint64
	sent     atomic.Uint64
	refused  atomic.Uint64
	received atomic.Uint64
	broken   atomic.Uint64
	lastAck  atomic.Int64 // when the latest acknowledgement came, in nanoseconds after begin
	last     atomic.Int64 // when the latest message arrived, likewise
}

func newLoad(b *settings, env *cli.Env, o client.Options) *load {
	return &load{
		settings: b, env: env, options: o, runID: rand.Uint32(),
		result: &result{
			Scenario: b.name, Version: o.Version.String(), QoS: b.qos, Size: b.size, Window: b.window,
			Publishers: b.shape.pubs, Subscribers: b.shape.subs, Durable: b.durable(),
		},
	}
}

// messages runs the scenarios that publish to subscribers who are there.
func (l *load) messages(ctx context.Context) error {
	subs, err := l.subscribers(ctx)
	defer closeAll(subs)
	if err != nil {
		return err
	}
	pubs, err := l.publishers(ctx)
	defer closeAll(pubs)
	if err != nil {
		return err
	}
	l.introduce(pubs, subs)
	if err := l.start(); err != nil {
		return err
	}
	clear := l.newBar(l.name, l.published, l.received.Load).run()
	defer clear()
	var reading sync.WaitGroup
	for _, s := range subs {
		reading.Go(func() { s.run() }) // ends when its connection is closed
	}
	l.publish(ctx, pubs)
	expected := l.expected()
	l.drain(ctx, expected)
	err = l.used()
	l.over.Store(true)
	closeAll(subs)
	reading.Wait()
	l.sum(pubs, subs, expected)
	return err
}

func (l *load) subscribers(ctx context.Context) ([]*subscriber, error) {
	subs := make([]*subscriber, l.shape.subs)
	l.sessions.Store(int64(len(subs)))
	err := each(len(subs), func(i int) (err error) {
		subs[i], err = l.subscriber(ctx, i)
		return err
	})
	return subs, err
}

func (l *load) publishers(ctx context.Context) ([]*publisher, error) {
	pubs := make([]*publisher, l.shape.pubs)
	err := each(len(pubs), func(i int) (err error) {
		pubs[i], err = l.publisher(ctx, i)
		return err
	})
	l.result.Connected = l.shape.pubs + l.shape.subs
	return pubs, err
}

// closeAll closes the connections; there may be holes in the list.
func closeAll[C interface{ close() }](clients []C) {
	for _, c := range clients {
		c.close()
	}
}

// introduce tells publishers and subscribers of each other.
func (l *load) introduce(pubs []*publisher, subs []*subscriber) {
	for i, p := range pubs {
		p.audience = subs
		if l.name == "pairs" {
			p.audience = subs[i : i+1]
		}
	}
	for i, s := range subs {
		s.from = pubs
		if l.name == "pairs" {
			s.from = pubs[i : i+1]
		}
	}
}

// start is the moment from which things count.
func (l *load) start() (err error) {
	l.meter, err = newMeter(l.pid)
	l.begin = time.Now()
	return err
}

// publish lets the publishers run until they have sent what they were asked for,
// or the time has passed, and then waits for their acknowledgements.
func (l *load) publish(ctx context.Context, pubs []*publisher) {
	var writing sync.WaitGroup
	for _, p := range pubs {
		writing.Go(func() { p.run() }) // ends with stop or its last message, and its acknowledgements
	}
	done := make(chan struct{})
	go func() { // ends with the publishers
		writing.Wait()
		close(done)
	}()
	timer := time.NewTimer(l.duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	case <-ctx.Done():
	}
	l.stop.Store(true)
	for _, p := range pubs { // wherever they wait, they see it
		p.nudge()
		p.SetReadDeadline(time.Now().Add(drainTime))
	}
	<-done
}

// published is how much of the publishing is done.
func (l *load) published(since time.Duration) float64 {
	part := since.Seconds() / l.duration.Seconds()
	if l.count > 0 {
		part = max(part, float64(l.sent.Load())/float64(l.count))
	}
	return part
}

// expected is how many deliveries are owed for what was accepted.
func (l *load) expected() uint64 {
	if l.name == "pairs" {
		return l.accepted.Load()
	}
	return l.accepted.Load() * uint64(l.shape.subs)
}

// drainTime is how long nothing may arrive before the bench gives up.
const drainTime = 3 * time.Second

// drain waits until what is expected has arrived, or nothing arrives any more.
func (l *load) drain(ctx context.Context, expected uint64) {
	before, at := l.received.Load(), time.Now()
	for l.received.Load() < expected && time.Since(at) < drainTime && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
		if now := l.received.Load(); now != before {
			before, at = now, time.Now()
		}
	}
}

// used notes what the broker has used since the start.
func (l *load) used() (err error) {
	l.result.Broker, err = l.meter.use(l.received.Load(), l.accepted.Load()*uint64(l.size))
	return err
}

func (l *load) sum(pubs []*publisher, subs []*subscriber, expected uint64) {
	r := l.result
	var acks, deliveries histogram
	for _, p := range pubs {
		acks.merge(&p.acksAfter)
	}
	for _, s := range subs {
		deliveries.merge(&s.latency)
		r.Duplicates += s.duplicates
		r.Disordered += s.disordered
	}
	r.Sent, r.Accepted, r.Refused, r.Received = l.sent.Load(), l.accepted.Load(), l.refused.Load(), l.received.Load()
	r.Broken = l.broken.Load()
	if r.Received < expected {
		r.Lost = expected - r.Received
	}
	r.Seconds = time.Duration(l.last.Load()).Seconds()
	r.Rate = rate(r.Received, r.Seconds)
	r.PublishRate = rate(r.Accepted, time.Duration(l.lastAck.Load()).Seconds())
	r.Ack, r.Latency = acks.quantiles(), deliveries.quantiles()
}

// rate is so many in a second.
func rate(n uint64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}
