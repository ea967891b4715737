package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// calm is how long nothing must have happened before a round is judged.
const calm = 250 * time.Millisecond

// A round plays one scenario against one process.
type round struct {
	scenario *scenario
	process  *process
	drain    time.Duration // how long nothing may happen while something is owed
	history  *history
	restarts []time.Duration // from the start of the process to the first CONNACK
	stage    *stage
}

// result is what a round has shown.
type result struct {
	scenario *scenario
	events   []event
	model    *model
	restarts []time.Duration
	log      string // the last of what the broker wrote, if there is a violation
}

// play plays the scenario. The error says why it could not be played; a broker
// that ends, or does not start again, is a violation and no error.
func (r *round) play(ctx context.Context) (*result, error) {
	r.history = newHistory()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.stage = &stage{ctx: ctx, h: r.history, addr: r.process.addr, up: newGate(), settling: make(chan struct{})}

	failed := r.raise(ctx)
	var wg sync.WaitGroup
	defer wg.Wait() // cancel comes first
	defer cancel()
	for _, role := range r.scenario.Roles {
		a := &actor{role: role, stage: r.stage, rng: r.scenario.source(role.Name)}
		wg.Go(a.perform) // ends with ctx
	}
	if failed == nil {
		failed = r.killAll(ctx)
	}
	close(r.stage.settling)
	if failed == nil {
		r.settle(ctx, &wg)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	events, err := r.history.seal()
	if err != nil {
		return nil, err
	}
	res := &result{scenario: r.scenario, events: events, restarts: r.restarts}
	res.model = judge(res.events)
	if failed != nil && !died(res) {
		res.model.fail(faultDied, "", []mark{mark(len(res.events))}, "%v", failed)
		res.model.totals.Violations++
	}
	if len(res.model.violations) > 0 {
		res.log = r.process.tail()
	}
	return res, nil
}

// raise starts the process, unless it runs already, and waits until it answers.
func (r *round) raise(ctx context.Context) error {
	r.history.add(event{kind: started})
	if r.process.cmd == nil {
		if err := r.restart(ctx, nil); err != nil {
			return err
		}
	}
	r.history.add(event{kind: ready})
	r.stage.up.set(true)
	return nil
}

// restart starts the process. Without a kill that comes right after the start it
// waits until it answers.
func (r *round) restart(ctx context.Context, following *kill) error {
	begin := time.Now()
	if err := r.process.start(); err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	if following != nil && following.Moment == starting {
		return nil
	}
	if err := r.process.answers(ctx); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	r.restarts = append(r.restarts, time.Since(begin))
	return nil
}

// killAll kills the broker at each of the scenario's moments and starts it again.
func (r *round) killAll(ctx context.Context) error {
	for i := range r.scenario.Kills {
		var following *kill
		if i+1 < len(r.scenario.Kills) {
			following = &r.scenario.Kills[i+1]
		}
		if err := r.killOne(ctx, &r.scenario.Kills[i], following); err != nil {
			return err
		}
	}
	return r.lives(ctx, r.scenario.Calm)
}

func (r *round) killOne(ctx context.Context, k, following *kill) error {
	if err := r.awaitMoment(ctx, k); err != nil {
		return err
	}
	r.stage.up.set(false)
	r.history.add(event{kind: killed, text: fmt.Sprintf("(%s %d, %s later)", k.Moment, k.Nth, k.After.Round(time.Microsecond))})
	if err := r.process.kill(); err != nil {
		return fmt.Errorf("kill the broker: %w", err)
	}
	r.history.add(event{kind: ended})
	r.history.add(event{kind: started})
	if err := r.restart(ctx, following); err != nil {
		return err
	}
	if following == nil || following.Moment != starting {
		r.history.add(event{kind: ready})
		r.stage.up.set(true)
	}
	return nil
}

// awaitMoment waits for the moment of a kill, or long enough.
func (r *round) awaitMoment(ctx context.Context, k *kill) error {
	if want := wanted[k.Moment]; want != nil {
		seen := r.history.await(k.Nth, want)
		timer := time.NewTimer(momentMax)
		defer timer.Stop()
		select {
		case <-seen:
		case <-timer.C:
		case <-r.process.done:
			return r.diedAlone()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return r.lives(ctx, k.After)
}

// lives waits, while the broker must not end.
func (r *round) lives(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.process.done:
		return r.diedAlone()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *round) diedAlone() error {
	r.history.add(event{kind: ended, text: fmt.Sprint(r.process.err)})
	return fmt.Errorf("the broker ended by itself: %w", r.process.err)
}

// wanted says which events a moment waits for.
var wanted = map[moment]func(*event) bool{
	resuming: func(e *event) bool {
		return e.kind == sent && e.packet == packet.PUBLISH && e.dup || e.kind == received && e.packet == packet.CONNACK && e.present
	},
	acked: func(e *event) bool {
		return e.kind == received && (e.packet == packet.PUBACK || e.packet == packet.PUBREC)
	},
	releasing: func(e *event) bool {
		return e.packet == packet.PUBREL || e.packet == packet.PUBCOMP
	},
	storming: func(e *event) bool {
		return e.kind == sent && e.packet == packet.CONNECT && e.connect.will == nil && e.connect.receiveMax == 0
	},
	asking: func(e *event) bool {
		return e.kind == sent && (e.packet == packet.SUBSCRIBE || e.packet == packet.UNSUBSCRIBE)
	},
	ending: func(e *event) bool {
		return e.kind == sent && (e.packet == packet.CONNECT && e.connect.clean && e.connect.expiry > 0 || e.packet == packet.DISCONNECT && e.expiry != nil)
	},
	leaving: func(e *event) bool {
		return e.kind == closed && strings.Contains(e.client, "mortal")
	},
	falling: func(e *event) bool {
		return e.kind == closed && strings.HasSuffix(e.client, nameOfFalling)
	},
	bursting: func(e *event) bool { return e.kind == sent && e.packet == packet.PUBLISH },
}

// settle waits until nothing is owed any more, or nothing has happened for as
// long as drain. As soon as no publisher waits for an answer, an auditor reads
// all retained messages.
func (r *round) settle(ctx context.Context, wg *sync.WaitGroup) {
	limit := time.NewTimer(10 * r.drain)
	defer limit.Stop()
	look := time.NewTicker(calm / 5)
	defer look.Stop()
	var audited <-chan struct{} // nil: there is no auditor yet
	var judged time.Time
	for {
		select {
		case <-look.C:
		case <-limit.C:
			return
		case <-r.process.done:
			r.history.add(event{kind: ended, text: fmt.Sprint(r.process.err)})
			return
		case <-ctx.Done():
			return
		}
		last := r.history.latest()
		quiet := time.Since(last)
		if quiet < calm || last.Before(judged) && time.Since(judged) < 2*calm {
			continue
		}
		judged = time.Now()
		now := judge(r.history.snapshot())
		switch {
		case quiet > r.drain:
			return
		case audited == nil && !now.waits():
			audited = r.audit(wg)
		case audited != nil && isClosed(audited) && !now.pending():
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// audit lets the auditor come. It returns a channel that is closed once he is
// subscribed.
func (r *round) audit(wg *sync.WaitGroup) <-chan struct{} {
	role := r.auditor()
	subscribed := r.history.await(1, func(e *event) bool {
		return e.client == role.Name && e.kind == received && e.packet == packet.SUBACK
	})
	wg.Go((&actor{role: role, stage: r.stage, rng: r.scenario.source(role.Name), settled: true}).perform)
	return subscribed
}

// auditor reads every retained message of the round and stays.
func (r *round) auditor() role {
	return role{
		Kind: reader, Name: fmt.Sprintf("%d-auditor", r.scenario.Seed), Version: mqtt.V5, Durable: true, Expiry: 1,
		Filters: []filterQoS{{fmt.Sprintf("%d/keep/#", r.scenario.Seed), mqtt.QoS1}},
	}
}

// waits reports whether somebody waits for an answer.
func (m *model) waits() bool {
	return slices.ContainsFunc(m.violations, func(v violation) bool { return v.fault == faultUnanswered })
}

// pending reports whether there is a violation that time may heal.
func (m *model) pending() bool {
	return slices.ContainsFunc(m.violations, func(v violation) bool { return v.missing })
}
