package broker

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"

	"fairlead/mqtt"
)

// isSys reports whether the Topic Name is one of those that only the broker
// publishes.
func isSys(name string) bool {
	return strings.HasPrefix(name, "$SYS") && (len(name) == 4 || name[4] == '/')
}

// publishSys publishes the $SYS topics every so often, under Mosquitto's names,
// until the func that it returns is called.
func (b *Broker) publishSys(every time.Duration) (stop func()) {
	if every <= 0 {
		return func() {}
	}
	stopped := make(chan struct{})
	ended := make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		s := &sys{broker: b, said: make(map[string]string)}
		s.publish(b.now())
		for {
			select {
			case <-stopped:
				return
			case now := <-tick.C:
				s.publish(now)
				b.retained.sweep(now)
			}
		}
	}()
	once := false
	return func() {
		if !once {
			once = true
			close(stopped)
		}
		<-ended
	}
}

// sys remembers what was said last, because only what has changed is said again.
type sys struct {
	broker  *Broker
	said    map[string]string
	loads   [loadKinds]load
	at      time.Time
	maximum int64 // most Clients at once
	heapMax uint64
}

// publish says what there is to say at the time now.
func (s *sys) publish(now time.Time) {
	b := s.broker
	connected, sessions := b.Connected.Load(), b.Sessions.Load()
	s.maximum = max(s.maximum, connected)
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	s.heapMax = max(s.heapMax, heap.HeapAlloc)
	s.say(now, "version", "fairlead version "+b.version)
	s.say(now, "uptime", fmt.Sprintf("%d seconds", int(now.Sub(b.began).Seconds())))
	for topic, n := range map[string]int64{
		"clients/connected": connected, "clients/active": connected,
		"clients/disconnected": sessions - connected, "clients/inactive": sessions - connected,
		"clients/total": sessions, "clients/maximum": s.maximum,
		"subscriptions/count":     b.Subscriptions.Load(),
		"retained messages/count": int64(b.retained.len()),
		"messages/stored":         b.QueuedMessages.Load(),
		"store/messages/count":    b.QueuedMessages.Load(),
		"store/messages/bytes":    b.queued.Load(),
	} {
		s.say(now, topic, strconv.FormatInt(n, 10))
	}
	for topic, n := range map[string]uint64{
		"bytes/received": b.ReadBytes.Load(), "bytes/sent": b.SentBytes.Load(),
		"messages/received": b.ReadPackets.Load(), "messages/sent": b.SentMessages.Load(),
		"publish/messages/received": b.PublishMessages.Load(), "publish/messages/sent": b.SentMessages.Load(),
		"publish/messages/dropped": b.Dropped(),
		"publish/bytes/received":   b.PublishBytes.Load(), "publish/bytes/sent": b.SentPayloadBytes.Load(),
		"heap/current": heap.HeapAlloc, "heap/maximum": s.heapMax,
	} {
		s.say(now, topic, strconv.FormatUint(n, 10))
	}
	if b.sysMore != nil {
		for topic, value := range b.sysMore() {
			s.say(now, topic, value)
		}
	}
	s.sayLoads(now)
}

// say publishes one $SYS topic, retained, if its value is new.
func (s *sys) say(now time.Time, name, value string) {
	if s.said[name] == value {
		return
	}
	s.said[name] = value
	s.broker.publishOwn(nil, &mqtt.Message{
		Topic: "$SYS/broker/" + name, Payload: []byte(value), Received: now, Retain: true,
	})
}

// The rates that are published as moving averages.
const (
	loadReceived = iota
	loadSent
	loadBytesReceived
	loadBytesSent
	loadPublishReceived
	loadPublishSent
	loadPublishDropped
	loadConnections
	loadKinds
)

var loadNames = [loadKinds]string{"messages/received", "messages/sent", "bytes/received", "bytes/sent",
	"publish/received", "publish/sent", "publish/dropped", "connections"}

// load is a counter's rate a minute, averaged over 1, 5 and 15 minutes.
type load struct {
	before uint64
	rates  [3]float64
}

var loadSpans = [3]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}

func (s *sys) sayLoads(now time.Time) {
	b := s.broker
	counts := [loadKinds]uint64{b.ReadPackets.Load(), b.SentMessages.Load(), b.ReadBytes.Load(), b.SentBytes.Load(),
		b.PublishMessages.Load(), b.SentMessages.Load(), b.Dropped(), b.Accepted.Load()}
	since := now.Sub(s.at)
	first := s.at.IsZero()
	s.at = now
	for i := range s.loads {
		l := &s.loads[i]
		if !first && since > 0 {
			l.add(counts[i], since)
		}
		l.before = counts[i]
		for j, span := range []string{"1min", "5min", "15min"} {
			s.say(now, "load/"+loadNames[i]+"/"+span, fmt.Sprintf("%.2f", l.rates[j]))
		}
	}
}

// add takes the counter's value after the time since into the averages.
func (l *load) add(n uint64, since time.Duration) {
	rate := float64(n-l.before) / since.Minutes()
	for j, span := range loadSpans {
		weight := math.Exp(-float64(since) / float64(span))
		l.rates[j] = rate + weight*(l.rates[j]-rate)
	}
}
