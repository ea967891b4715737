package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"fairlead/device"
)

// mutualClients connect at the same time, each a device with a certificate of its own.
const mutualClients = 50

var mutualCPU = metric{"cpu_us_per_connect", "µs", "broker CPU per connect"}

// measureConnects lets devices with certificates connect and disconnect again and
// again: TCP, a TLS 1.3 handshake in which both sides show a certificate, CONNECT,
// CONNACK, DISCONNECT. With resume they offer the session of their last connection.
func measureConnects(name string, resume bool) func(context.Context, *bench, broker) (result, error) {
	return func(ctx context.Context, b *bench, broker broker) (result, error) {
		f, err := b.fleetOf(ctx, "connect", func() fleetSpec {
			return fleetSpec{devices: mutualClients, certified: mutualClients, device: func(i int) device.Device {
				return device.Device{Name: fmt.Sprintf("gate-%d", i)}
			}}
		})
		if err != nil {
			return nil, err
		}
		clients := make([]*mutualClient, mutualClients)
		for i := range clients {
			var sessions tls.ClientSessionCache
			if resume {
				sessions = tls.NewLRUClientSessionCache(1)
			}
			clients[i] = &mutualClient{login: f.byCertificate(fmt.Sprintf("gate-%d", i), ":bench", sessions)}
		}
		s := &rig{bench: b, broker: broker, probe: clients[0].login, l: layout{fleet: f}, r: result{}}
		return s.run(ctx, func(ctx context.Context, s *rig) error {
			// Once for nothing: caches are warm, and there are sessions to resume.
			if err := s.each(ctx, len(clients), func(i int) error { return clients[i].once(ctx, s.l.tlsPort) }); err != nil {
				return err
			}
			return s.connects(ctx, clients, b.publishing(securityScenario(name)))
		})
	}
}

// A mutualClient is one device that connects again and again.
type mutualClient struct {
	login
	took    []float64 // microseconds from before the TCP connection to after CONNACK
	resumed int
	failed  int
	err     error // the first
	state   tls.ConnectionState
}

// once connects and disconnects.
func (m *mutualClient) once(ctx context.Context, port string) error {
	before := time.Now()
	c, err := m.dial(ctx, port)
	if err != nil {
		return err
	}
	m.took = append(m.took, time.Since(before).Seconds()*1e6)
	m.state = c.Conn.(*tls.Conn).ConnectionState()
	if m.state.DidResume {
		m.resumed++
	}
	return c.leave()
}

// again does it until the time has come. A failure is counted, and ends nothing.
func (m *mutualClient) again(ctx context.Context, port string, until time.Time) {
	m.took, m.resumed, m.failed, m.err = m.took[:0], 0, 0, nil
	for time.Now().Before(until) && ctx.Err() == nil {
		if err := m.once(ctx, port); err != nil {
			if m.failed++; m.err == nil {
				m.err = err
			}
		}
	}
}

// connects measures for so many seconds.
func (s *rig) connects(ctx context.Context, clients []*mutualClient, seconds float64) error {
	cpu, err := s.p.cpu()
	if err != nil {
		return err
	}
	ours, begin := ownCPU(), time.Now()
	until := begin.Add(time.Duration(seconds * float64(time.Second)))
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() { c.again(ctx, s.l.tlsPort, until) }) // ends with the time, or ctx
	}
	wg.Wait()
	took := time.Since(begin).Seconds()
	ours = ownCPU() - ours
	after, err := s.p.cpu()
	if err != nil {
		return err
	}
	return s.countConnects(clients, took, after-cpu, ours)
}

// countConnects notes what came of it. theirs and ours are the processor time of the
// broker and of this program.
func (s *rig) countConnects(clients []*mutualClient, seconds, theirs, ours float64) error {
	var took []float64
	resumed, failed := 0, 0
	var err error
	for _, c := range clients {
		took = append(took, c.took...)
		resumed, failed = resumed+c.resumed, failed+c.failed
		if err == nil && c.err != nil {
			err = fmt.Errorf("%s: %w", c.id, c.err)
		}
	}
	n := float64(len(took))
	s.r["failed"] = float64(failed)
	if n == 0 {
		return fmt.Errorf("nobody could connect: %w", err)
	}
	slices.Sort(took)
	s.r["connects"], s.r["rate"], s.r["resumed_percent"] = n, n/seconds, 100*float64(resumed)/n
	s.r[mutualCPU.key], s.r["bench_cpu_us_per_connect"] = theirs*1e6/n, ours*1e6/n
	s.r["p50_us"], s.r["p99_us"] = took[len(took)/2], took[len(took)*99/100]
	state := clients[0].state
	s.r["tls"] = fmt.Sprintf("%s, %v", tls.VersionName(state.Version), state.CurveID)
	return err
}

// ownCPU is the processor time of this program, in seconds.
func ownCPU() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it can't fail with this argument
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(u.Utime) + seconds(u.Stime)
}
