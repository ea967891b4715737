package bench

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errForgotten is the error of a broker that has not kept the session.
var errForgotten = errors.New("a client came back and the broker had kept no session for it")

// offline publishes to sessions whose clients are away, and lets them come back.
func (l *load) offline(ctx context.Context) error {
	subs, err := l.subscribers(ctx)
	defer closeAll(subs)
	if err != nil {
		return err
	}
	for _, s := range subs {
		if err := s.leave(); err != nil {
			return err
		}
	}
	pubs, err := l.publishers(ctx)
	defer closeAll(pubs)
	if err != nil {
		return err
	}
	if err := l.start(); err != nil {
		return err
	}
	clear := l.newBar("offline, publish", l.published, l.accepted.Load).run()
	l.publish(ctx, pubs)
	clear()
	cpu, err := l.meter.cpu()
	if err != nil {
		return err
	}
	if err := l.comeBack(ctx, pubs, subs); err != nil {
		return err
	}
	if u := l.result.Broker; u != nil {
		u.CPUPublish = perMessage(cpu, l.accepted.Load())
		u.CPUDrain = perMessage(u.CPU-cpu, l.received.Load())
	}
	return nil
}

// comeBack connects the subscribers again, counts what they are given and sums up.
func (l *load) comeBack(ctx context.Context, pubs []*publisher, subs []*subscriber) error {
	expected := l.expected()
	part := func(time.Duration) float64 { return float64(l.received.Load()) / float64(max(expected, 1)) }
	defer l.newBar("offline, return", part, l.received.Load).run()()
	returned := time.Since(l.begin)
	err := each(len(subs), func(i int) (err error) {
		if subs[i].link, err = l.dial(ctx, i, true); err == nil && !subs[i].sessionPresent {
			err = errForgotten
		}
		return err
	})
	if err != nil {
		return err
	}
	var reading sync.WaitGroup
	for _, s := range subs {
		reading.Go(func() { s.run() }) // ends when its connection is closed
	}
	l.drain(ctx, expected)
	err = l.used()
	l.over.Store(true)
	closeAll(subs)
	reading.Wait()
	l.sum(pubs, subs, expected)
	r := l.result
	r.Seconds = (time.Duration(l.last.Load()) - returned).Seconds()
	r.DrainRate = rate(r.Received, r.Seconds)
	r.Rate = r.DrainRate
	r.Latency = nil // it is how long the clients were away
	return err
}
