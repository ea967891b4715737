package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/mqtt/packet"
)

var scaleScenarios = []scenario{
	{name: "queue", metric: elapsed, measure: measureQueue},
	{name: "sessions", metric: elapsed, measure: measureSessions},
	{name: "retained", metric: elapsed, measure: measureRetained},
}

const (
	messagesEach = 10   // for each absent client
	sampleMax    = 1000 // of the absent clients come back
	connectors   = 64   // connections that are opened at the same time
	quietTime    = 2 * time.Second
)

// A rig is Fairlead on trial: one data directory, and one process after another.
type rig struct {
	*bench
	broker broker
	l      layout
	probe  login // of the first client
	p      *process
	begin  time.Time
	r      result
}

// onRig runs try with a broker of its own in an empty directory.
func onRig(ctx context.Context, b *bench, broker broker, try func(ctx context.Context, s *rig) error) (result, error) {
	s := &rig{bench: b, broker: broker, probe: login{id: "probe"}, r: result{"n": float64(b.n)}}
	return s.run(ctx, try)
}

// run gives the rig a directory and a broker, and runs try with them.
func (s *rig) run(ctx context.Context, try func(ctx context.Context, s *rig) error) (result, error) {
	l, err := newLayout(s.dir)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(l.dir)
	l.fleet = s.l.fleet
	s.l, s.begin = l, time.Now()
	defer func() {
		if s.p != nil {
			s.p.end()
		}
	}()
	took, err := s.start(ctx)
	if err == nil {
		s.r["start_seconds"] = took.Seconds()
		err = try(ctx, s)
	}
	if err != nil && s.p != nil {
		err = fmt.Errorf("%w; the broker's log ends with: %s", err, s.p.said())
	}
	s.r["seconds"] = time.Since(s.begin).Seconds()
	return s.r, err
}

// say shows how far a run is that takes minutes.
func (s *rig) say(format string, args ...any) {
	fmt.Fprintf(s.log, "%s  %6.1f s  "+format+"\n", append([]any{s.group.name, time.Since(s.begin).Seconds()}, args...)...)
}

// start runs the broker and returns how long it takes from exec to the first CONNACK.
func (s *rig) start(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	var err error
	if s.p, err = s.broker.launch(s.l); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, replyPatience)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		c, err := s.probe.dial(ctx, s.l.portOf(s.probe))
		if err == nil {
			took := time.Since(begin)
			return took, c.leave()
		}
		select {
		case <-again.C:
		case <-s.p.done:
			return 0, errors.New("the broker has ended before it took a connection")
		case <-ctx.Done():
			return 0, fmt.Errorf("the broker takes no connection: %w", err)
		}
	}
}

// restart kills the broker as kill -9 does and starts it again, noting the time.
func (s *rig) restart(ctx context.Context) error {
	s.p.kill()
	took, err := s.start(ctx)
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	s.r["restart_seconds"] = took.Seconds()
	s.say("killed, first CONNACK after %.2f s", took.Seconds())
	return nil
}

// timed runs f and notes how long it takes and how many of n that is a second.
func (s *rig) timed(name string, n int, f func() error) error {
	begin := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	seconds := time.Since(begin).Seconds()
	s.r[name+"_seconds"], s.r[name+"_rate"] = seconds, float64(n)/seconds
	s.say("%s: %d in %.2f s", name, n, seconds)
	return nil
}

// weigh notes the memory that the broker has and the disk that its data takes.
func (s *rig) weigh(name string) error {
	now, peak, err := s.p.memory()
	if err != nil {
		return err
	}
	disk, err := diskUse(filepath.Join(s.l.dir, "data"))
	if err != nil {
		return fmt.Errorf("disk use: %w", err)
	}
	s.r[name+"_rss"], s.r[name+"_peak"], s.r[name+"_disk"] = float64(now), float64(peak), float64(disk)
	s.say("%s: memory %.0f MiB, at most %.0f MiB, on disk %.0f MiB", name, mib(float64(now)), mib(float64(peak)), mib(float64(disk)))
	return nil
}

func mib(bytes float64) float64 { return bytes / (1 << 20) }

// counted notes what came of n messages.
func (s *rig) counted(t *tally, n int) {
	s.r["lost"], s.r["duplicates"], s.r["disordered"], s.r["unexplained"] =
		float64(n-t.n), float64(t.duplicates), float64(t.disordered), float64(t.unexplained)
}

// steps does one thing after the other, until one fails.
func steps(todo ...func() error) error {
	for _, f := range todo {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// measureQueue queues n messages for one absent client, kills the broker with the last
// acknowledgement, and lets the client come back.
func measureQueue(ctx context.Context, b *bench, broker broker) (result, error) {
	return onRig(ctx, b, broker, func(ctx context.Context, s *rig) error {
		const id = "absent"
		found := newTally(s.n)
		return steps(
			func() error { return s.visit(ctx, id, "queue/#") },
			func() error {
				return s.timed("publish", s.n, func() error {
					return publication{n: s.n, topic: func(int) string { return "queue/a" }}.publish(ctx, s.l.port)
				})
			},
			func() error { return s.weigh("published") },
			func() error { return s.restart(ctx) },
			func() error { return s.weigh("restarted") },
			s.countPeak,
			func() error {
				return s.timed("drain", s.n, func() error { return s.drain(ctx, id, found, s.n) })
			},
			func() error { s.counted(found, s.n); return s.weigh("drained") },
		)
	})
}

// countPeak makes the most memory be counted from here on.
func (s *rig) countPeak() error { return s.p.forgetPeak() }

// visit makes a session with a subscription and leaves it behind.
func (s *rig) visit(ctx context.Context, id, filter string) error {
	c, err := dial(ctx, s.l.port, id, true)
	if err != nil {
		return err
	}
	if err := c.subscribe(filter); err != nil {
		c.Close()
		return err
	}
	return c.leave()
}

var errNoSession = errors.New("the broker had no session for the client")

// drain comes back as the client and counts n messages and those that come behind them.
func (s *rig) drain(ctx context.Context, id string, found *tally, n int) error {
	c, err := dial(ctx, s.l.port, id, true)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if !c.present {
		return errNoSession
	}
	return c.count(found, n)
}

// count takes messages until n different ones have come and the broker, asked by a
// PINGREQ behind the last acknowledgement, has no more.
func (c *client) count(found *tally, n int) error {
	if err := c.read(func(q packet.Packet) bool {
		if m, ok := q.(*packet.Publish); ok {
			found.add(m.Payload)
		}
		return found.n < n
	}); err != nil {
		return fmt.Errorf("%d of %d messages, and then: %w", found.n, n, err)
	}
	if err := c.send(&packet.Pingreq{}); err != nil {
		return err
	}
	return c.read(func(q packet.Packet) bool {
		if m, ok := q.(*packet.Publish); ok {
			found.add(m.Payload)
		}
		return q.Type() != packet.PINGRESP
	})
}

// measureSessions leaves n sessions behind, queues ten messages for each, kills the
// broker with the last acknowledgement, and lets some of the clients come back.
func measureSessions(ctx context.Context, b *bench, broker broker) (result, error) {
	return onRig(ctx, b, broker, func(ctx context.Context, s *rig) error {
		n := (s.n + publishers - 1) / publishers * publishers // each session has one publisher
		s.r["n"] = float64(n)
		name := func(i int) string { return fmt.Sprintf("absent/%d", i) }
		return steps(
			func() error {
				return s.timed("connect", n, func() error {
					return s.each(ctx, n, func(i int) error { return s.visit(ctx, name(i), name(i)) })
				})
			},
			func() error { return s.weigh("connected") },
			func() error {
				return s.timed("publish", n*messagesEach, func() error {
					return publication{n: n * messagesEach, topic: func(i int) string { return name(i % n) }}.publish(ctx, s.l.port)
				})
			},
			func() error { return s.weigh("published") },
			func() error { return s.restart(ctx) },
			func() error { return s.weigh("restarted") },
			func() error { return s.sample(ctx, n, name) },
			func() error { return s.weigh("drained") },
		)
	})
}

// each runs f for 0 to n-1, many at a time, until one fails.
func (s *rig) each(ctx context.Context, n int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range connectors {
		wg.Go(func() { // ends with the last number, or ctx
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					cancel(fmt.Errorf("client %d: %w", i, err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// sample lets clients from all over come back: each must be given exactly its own
// messages, in order.
func (s *rig) sample(ctx context.Context, n int, name func(int) string) error {
	clients := min(n, sampleMax)
	found := make([]*tally, clients)
	err := s.timed("return", clients, func() error {
		return s.each(ctx, clients, func(k int) error {
			found[k] = newTally(n * messagesEach)
			err := s.drain(ctx, name(k*(n/clients)), found[k], messagesEach)
			found[k].foreign(func(i int) bool { return i%n != k*(n/clients) })
			return err
		})
	})
	var all tally
	for _, t := range found {
		if t != nil {
			all.merge(t)
		}
	}
	s.counted(&all, clients*messagesEach)
	return err
}

// foreign takes what is another client's for unexplained.
func (t *tally) foreign(is func(i int) bool) {
	for word, bits := range t.seen {
		for bit := range 64 {
			if bits&(1<<bit) != 0 && is(word*64+bit) {
				t.n--
				t.unexplained++
			}
		}
	}
	t.seen = nil // a thousand of them would be much memory
}

// measureRetained sets n retained messages and subscribes to all of them, while two
// other clients measure how long their messages take: first by a filter that matches
// those too, then, after a kill -9, by one that does not.
func measureRetained(ctx context.Context, b *bench, broker broker) (result, error) {
	return onRig(ctx, b, broker, func(ctx context.Context, s *rig) error {
		first, second := newTally(s.n), newTally(s.n)
		return steps(
			func() error {
				return s.timed("publish", s.n, func() error {
					topic := func(i int) string { return fmt.Sprintf("retained/%d/%d", i/1000, i%1000) }
					return publication{n: s.n, retain: true, topic: topic}.publish(ctx, s.l.port)
				})
			},
			func() error { return s.weigh("published") },
			s.countPeak,
			func() error { return s.disturbed(ctx, "#", "drain", "matched", first) },
			func() error { return s.weigh("drained") },
			func() error { return s.restart(ctx) },
			func() error { return s.weigh("restarted") },
			func() error { return s.disturbed(ctx, "retained/#", "again", "apart", second) },
			func() error { second.merge(first); s.counted(second, 2*s.n); return nil },
		)
	})
}

// all subscribes to the filter and counts the retained messages.
func (s *rig) all(ctx context.Context, filter string, found *tally) error {
	c, err := dial(ctx, s.l.port, "everything", false)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.send(subscription(filter)); err != nil {
		return err
	}
	return c.read(func(q packet.Packet) bool {
		if m, ok := q.(*packet.Publish); ok && m.Retain {
			found.add(m.Payload)
		}
		return found.n < s.n
	})
}

// disturbed counts the retained messages of the filter, beside a pair of clients that
// is first alone and then not. The time is noted under name, the latency of the pair
// under "quiet" and meanwhile.
func (s *rig) disturbed(ctx context.Context, filter, name, meanwhile string, found *tally) error {
	beat, err := startPulse(ctx, s.l.port)
	if err != nil {
		return err
	}
	select {
	case <-time.After(min(quietTime, time.Duration(s.n)*time.Millisecond)):
	case <-ctx.Done():
	}
	before := time.Now()
	err = s.timed(name, s.n, func() error { return s.all(ctx, filter, found) })
	after := time.Now()
	samples, beatErr := beat.stop()
	if err := errors.Join(err, beatErr); err != nil {
		return err
	}
	// What was sent just before waits as well, and belongs to neither.
	s.note("quiet", samples, func(one sample) bool { return one.sent.Add(one.took).Before(before) })
	s.note(meanwhile, samples, func(one sample) bool { return !one.sent.Before(before) && one.sent.Before(after) })
	return nil
}

// note notes the latency of some of the samples.
func (s *rig) note(name string, samples []sample, belongs func(sample) bool) {
	var took []float64
	for _, one := range samples {
		if belongs(one) {
			took = append(took, one.took.Seconds()*1e6)
		}
	}
	slices.Sort(took)
	s.r[name+"_samples"] = float64(len(took))
	if n := len(took); n > 0 {
		s.r[name+"_p50_us"], s.r[name+"_p99_us"], s.r[name+"_max_us"] = took[n/2], took[min(n-1, n*99/100)], took[n-1]
		s.say("%s: %d messages of the other pair, p50 %.0f µs, p99 %.0f µs, max %.0f µs", name, n, took[n/2], took[min(n-1, n*99/100)], took[n-1])
	}
}
