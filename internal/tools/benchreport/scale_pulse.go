package main

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// pulseEvery is how often the pulse beats: often enough that a second has a 99th
// percentile.
const pulseEvery = time.Millisecond

const pulseTopic = "pulse"

// A sample is one message of the pulse: when it was sent, and how long it took from
// before the write to after the read.
type sample struct {
	sent time.Time
	took time.Duration
}

// A pulse is two clients whose messages of QoS 0 show how the broker treats others
// while it is busy. What does not arrive any more is not counted.
type pulse struct {
	from, to *client
	begin    time.Time
	ending   atomic.Bool
	running  sync.WaitGroup
	samples  []sample // the reader's
	errs     [2]error // of the writer and the reader
}

func startPulse(ctx context.Context, port string) (*pulse, error) {
	p := &pulse{begin: time.Now()}
	var err error
	if p.to, err = dial(ctx, port, "pulse-to", false); err != nil {
		return nil, err
	}
	if err = p.to.subscribe(pulseTopic); err == nil {
		p.from, err = dial(ctx, port, "pulse-from", false)
	}
	if err != nil {
		p.to.Close()
		return nil, err
	}
	p.running.Go(func() { p.errs[0] = p.write() }) // ends with ending
	p.running.Go(func() { p.errs[1] = p.read() })  // ends when its connection is closed
	return p, nil
}

func (p *pulse) write() error {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	payload := make([]byte, 8)
	var b []byte
	for range tick.C {
		if p.ending.Load() {
			return nil
		}
		binary.BigEndian.PutUint64(payload, uint64(time.Since(p.begin)))
		b = packet.AppendPublish(b[:0], mqtt.V5, &packet.Publish{Topic: []byte(pulseTopic), Payload: payload})
		if _, err := p.from.Write(b); err != nil && !p.ending.Load() {
			return err
		}
	}
	return nil
}

func (p *pulse) read() error {
	err := p.to.read(func(q packet.Packet) bool {
		if m, ok := q.(*packet.Publish); ok && len(m.Payload) == 8 {
			sent := p.begin.Add(time.Duration(binary.BigEndian.Uint64(m.Payload)))
			p.samples = append(p.samples, sample{sent, time.Since(sent)})
		}
		return true
	})
	if p.ending.Load() {
		return nil
	}
	return err
}

// stop ends the pulse and returns what it has measured.
func (p *pulse) stop() ([]sample, error) {
	p.ending.Store(true)
	p.from.Close()
	p.to.Close()
	p.running.Wait()
	return p.samples, errors.Join(p.errs[:]...)
}
