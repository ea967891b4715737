package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/mqtt/packet"
)

// connects runs the scenario connect.
func (l *load) connects(ctx context.Context) error {
	l.sessions.Store(int64(l.shape.pubs))
	if err := l.start(); err != nil {
		return err
	}
	defer l.newBar(l.name, l.published, l.received.Load).run()()
	histograms := make([]histogram, l.shape.pubs)
	var wg sync.WaitGroup
	var first atomic.Pointer[error]
	for i := range l.shape.pubs {
		wg.Go(func() { // ends with the time, or ctx
			// No time limit in ctx: a connect that it cuts off would count as failed.
			for time.Since(l.begin) < l.duration && ctx.Err() == nil {
				before := time.Now()
				c, err := l.dial(ctx, i, l.durable())
				if err != nil {
					if ctx.Err() == nil {
						l.broken.Add(1)
						first.CompareAndSwap(nil, &err)
					}
					continue
				}
				histograms[i].add(time.Since(before))
				l.received.Add(1)
				c.leave() // an error is one of a connection that is over anyway
			}
		})
	}
	wg.Wait()
	var all histogram
	for i := range histograms {
		all.merge(&histograms[i])
	}
	r := l.result
	r.Seconds, r.Connected, r.Broken = time.Since(l.begin).Seconds(), int(l.received.Load()), l.broken.Load()
	r.Rate = rate(l.received.Load(), r.Seconds)
	r.Latency = all.quantiles()
	if err := first.Load(); r.Connected == 0 && err != nil {
		return *err
	}
	return l.used()
}

// idle runs the scenario idle.
func (l *load) idle(ctx context.Context) error {
	links := make([]*link, l.shape.pubs)
	defer func() {
		for _, c := range links {
			if c != nil {
				c.Close()
			}
		}
	}()
	l.sessions.Store(int64(len(links)))
	if err := l.start(); err != nil {
		return err
	}
	err := each(len(links), func(i int) (err error) {
		links[i], err = l.dial(ctx, i, l.durable())
		return err
	})
	if err != nil {
		return err
	}
	l.received.Store(uint64(len(links)))
	held := time.Now()
	clear := l.newBar(l.name, func(since time.Duration) float64 { return since.Seconds() / l.duration.Seconds() }, nil).run()
	timer := time.NewTimer(l.duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	clear()
	ping, err := packet.Append(nil, l.options.Version, &packet.Pingreq{})
	if err != nil {
		return err
	}
	var alive atomic.Int64
	_ = each(len(links), func(i int) error { // who answers is still there
		c := links[i]
		c.SetDeadline(time.Now().Add(drainTime))
		if _, err := c.Write(ping); err != nil {
			return nil
		}
		if n, _ := c.Read(make([]byte, 2)); n == 2 {
			alive.Add(1)
		}
		return nil
	})
	r := l.result
	r.Seconds, r.Connected = time.Since(held).Seconds(), len(links)
	r.Broken = uint64(len(links) - int(alive.Load()))
	return l.used()
}
