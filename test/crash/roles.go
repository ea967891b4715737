package crash

import (
	"fmt"
	"math"
	"time"

	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// perform plays the role until the round is over.
func (a *actor) perform() {
	switch a.role.Kind {
	case publisher:
		a.publisher()
	case subscriber:
		a.comeAndGo(a.subscribing, a.leaveSomehow)
	case changer:
		a.changer()
	case ender:
		a.ender()
	case reader:
		a.comeAndGo(a.subscribing, a.leaveSomehow)
	case mortal:
		a.mortal()
	case guest:
		a.guest()
	}
	a.finish()
}

// over reports whether the role's coming and going has ended.
func (a *actor) over() bool { return a.settled || a.stage.ctx.Err() != nil }

// entry is how the role connects.
func (a *actor) entry() entry {
	e := entry{clean: !a.role.Durable, receiveMax: a.role.ReceiveMax}
	if a.role.Durable {
		e.expiry = a.role.Expiry
	}
	return e
}

// comeAndGo connects, works, leaves and returns.
func (a *actor) comeAndGo(work func() time.Duration, leave func()) {
	for !a.over() {
		if a.link == nil && !a.connect(a.entry()) {
			continue
		}
		if !a.spin(a.random(a.role.Stay), work, nil) || a.over() || a.role.Stay == 0 {
			continue
		}
		leave()
		a.pause(a.random(a.role.Away))
	}
}

// finish comes back for what is left to be done and stays to the end. Who has no
// session has nothing to come back for.
func (a *actor) finish() {
	for a.stage.ctx.Err() == nil && a.role.Kind != mortal {
		if a.link == nil && (!a.role.Durable || !a.connect(a.entry())) {
			if !a.role.Durable {
				return
			}
			continue
		}
		a.spin(endlessly, a.subscribing, nil)
	}
	a.drop(false)
}

// random is a time with that mean; without a mean it is as long as it takes.
func (a *actor) random(mean time.Duration) time.Duration {
	if mean == 0 {
		return endlessly
	}
	return time.Duration(-math.Log(1-a.rng.Float64()) * float64(mean))
}

// leaveSomehow ends the connection in one of the ways in which connections end.
func (a *actor) leaveSomehow() {
	switch a.rng.IntN(3) {
	case 0:
		a.leave(&packet.Disconnect{})
	case 1:
		a.drop(false)
	case 2:
		a.drop(true)
	}
}

// subscribing asks for those of the role's filters that the session does not
// have yet.
func (a *actor) subscribing() time.Duration {
	if a.asking != nil {
		return endlessly
	}
	var missing []filterQoS
	for _, f := range a.role.Filters {
		if _, ok := a.held[f.filter]; !ok {
			missing = append(missing, f)
		}
	}
	if len(missing) > 0 {
		a.subscribe(missing)
	}
	return endlessly
}

// publisher publishes at its pace, with bursts, as far as the window allows.
func (a *actor) publisher() {
	n, burst := 0, 0
	due := time.Now()
	a.comeAndGo(func() time.Duration {
		for n < a.role.Messages && len(a.out) < a.role.Window && !a.settled {
			now := time.Now()
			if burst == 0 && now.Before(due) {
				return due.Sub(now)
			}
			n++
			a.publish(a.nextMessage(n))
			if burst > 0 {
				burst--
				continue
			}
			if due = due.Add(a.random(a.role.Every)); due.Before(now) {
				due = now
			}
			if a.role.Burst > 0 && a.rng.IntN(100) == 0 {
				burst = a.role.Burst
			}
		}
		return endlessly
	}, a.leaveSomehow)
}

func (a *actor) nextMessage(n int) packet.Publish {
	p := packet.Publish{QoS: a.role.QoS, Retain: a.role.Retain, Topic: []byte(a.role.Topics[a.rng.IntN(len(a.role.Topics))])}
	if !p.Retain || a.rng.IntN(12) > 0 {
		p.Payload = payload(a.serial(n))
	}
	return p
}

// changer is a subscriber whose other subscriptions come, go and change.
func (a *actor) changer() {
	due := time.Now().Add(a.random(a.role.Every))
	a.comeAndGo(func() time.Duration {
		a.subscribing()
		now := time.Now()
		if a.asking != nil || a.settled {
			return endlessly
		}
		if now.Before(due) {
			return due.Sub(now)
		}
		due = now.Add(a.random(a.role.Every))
		f := a.role.Extra[a.rng.IntN(len(a.role.Extra))]
		if _, held := a.held[f.filter]; held && a.rng.IntN(3) > 0 {
			a.unsubscribe(f.filter)
			return endlessly
		}
		f.qos = mqtt.QoS(1 + a.rng.IntN(2))
		a.subscribe([]filterQoS{f})
		return endlessly
	}, a.leaveSomehow)
}

// ender is a subscriber that begins anew now and then.
func (a *actor) ender() {
	for !a.over() {
		how := a.entry()
		how.clean = a.rng.IntN(3) == 0
		if a.link == nil && !a.connect(how) {
			continue
		}
		if !a.spin(a.random(a.role.Stay), a.subscribing, nil) || a.over() {
			continue
		}
		if a.role.Version >= mqtt.V5 && a.rng.IntN(4) == 0 {
			p := &packet.Disconnect{Properties: &packet.Properties{}} // a Session Expiry Interval of 0
			p.Properties.Mark(mqtt.SessionExpiryInterval)
			a.leave(p)
		} else {
			a.leaveSomehow()
		}
		a.pause(a.random(a.role.Away))
	}
}

// mortal leaves a will and dies in various ways. It stays away shorter or longer
// than the delay, and beyond the end if the end comes.
func (a *actor) mortal() {
	for n := 1; !a.over(); n++ {
		how := a.entry()
		how.clean = how.clean || a.rng.IntN(8) == 0
		how.will = &packet.Will{
			QoS: a.role.WillQoS, Topic: a.role.WillTopic, Payload: payload(fmt.Sprintf("%s!%d", a.role.Name, n)), Delay: a.role.WillDelay,
		}
		if !a.connect(how) {
			continue
		}
		alive := a.stay(a.random(a.role.Stay))
		switch {
		case !alive:
		case a.settled:
			a.leave(&packet.Disconnect{})
		case a.rng.IntN(3) == 0:
			a.leave(&packet.Disconnect{})
		case a.rng.IntN(4) == 0 && a.role.Version >= mqtt.V5:
			a.leave(&packet.Disconnect{Reason: mqtt.DisconnectWithWill})
		default:
			a.drop(a.rng.IntN(2) == 0)
		}
		away := a.random(a.role.Away)
		if a.role.WillDelay > 0 && a.rng.IntN(2) == 0 {
			away += time.Duration(a.role.WillDelay)*time.Second + late
		}
		a.pause(away)
	}
}

// guest connects together with all others, subscribes, says one thing and leaves.
func (a *actor) guest() {
	n := 0
	for !a.over() {
		since := time.Since(a.stage.h.begin)
		a.pause(a.role.Every - since%a.role.Every)
		if a.over() || !a.connect(a.entry()) {
			continue
		}
		before := n
		alive := a.spin(a.random(a.role.Stay), func() time.Duration {
			a.subscribing()
			if n == before && len(a.out) == 0 {
				n++
				a.publish(a.nextMessage(n))
			}
			return endlessly
		}, nil)
		if alive && !a.over() {
			a.leaveSomehow()
		}
	}
}
