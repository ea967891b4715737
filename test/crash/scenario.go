package crash

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"time"

	"fairlead/mqtt"
)

// A scenario is who takes part in a round and when the broker dies. All of it
// follows from the seed. What happens in it does not: processes and sockets have
// a time of their own.
type scenario struct {
	Seed  uint64
	Roles []role
	Kills []kill
	// Calm is the time after the last restart until everybody comes to an end.
	Calm time.Duration
}

// role is what one client does. Of a kind's fields only those count that it
// knows.
type role struct {
	Kind    roleKind
	Name    string // Client Identifier
	Version mqtt.Version
	Durable bool
	Expiry  uint32 // seconds, 5.0: Session Expiry of a durable session

	QoS      mqtt.QoS
	Window   int           // publishes: messages under way at a time
	Messages int           // publishes: at most so many
	Every    time.Duration // mean time between two
	Burst    int           // now and then so many at once
	Topics   []string
	Retain   bool
	LowIDs   bool // uses a Packet Identifier again as soon as it may

	Filters    []filterQoS
	Extra      []filterQoS // come and go
	AckLag     time.Duration
	ReceiveMax uint16

	Stay, Away time.Duration // mean times of a connection and between two; 0: does not leave by itself

	WillQoS   mqtt.QoS
	WillDelay uint32 // seconds
	WillTopic string
}

type roleKind string

const (
	publisher  roleKind = "publisher"
	subscriber roleKind = "subscriber" // also member of a Shared Subscription, and watcher of wills
	changer    roleKind = "changer"    // a subscriber that changes its subscriptions
	ender      roleKind = "ender"      // a subscriber that ends its session
	reader     roleKind = "reader"     // reads retained messages in short sessions
	mortal     roleKind = "mortal"     // leaves a will
	guest      roleKind = "guest"      // part of a storm of connections
)

// kill is one death of the broker: After the Nth event of its moment.
type kill struct {
	Moment moment
	Nth    int
	After  time.Duration
}

type moment string

const (
	anytime   moment = "anytime"   // after the restart, at random
	starting  moment = "starting"  // after the start of the process, whether it answers yet or not
	returning moment = "returning" // while everybody reconnects
	resuming  moment = "resuming"  // a PUBLISH was repeated, or a session resumed
	acked     moment = "acked"     // PUBACK or PUBREC came
	releasing moment = "releasing" // PUBREL or PUBCOMP
	storming  moment = "storming"  // a storm of connections has begun
	asking    moment = "asking"    // SUBSCRIBE or UNSUBSCRIBE was sent
	ending    moment = "ending"    // a session is being ended
	leaving   moment = "leaving"   // a client with a will has gone
	falling   moment = "falling"   // a delayed will falls due
	bursting  moment = "bursting"  // many messages were published: a checkpoint follows
)

// momentMax is how long a kill waits for its moment.
const momentMax = 1500 * time.Millisecond

// moments with the most of Nth, and the least and the most of After.
var moments = []struct {
	moment      moment
	nth         int
	least, most time.Duration
}{
	{anytime, 1, 0, 4 * time.Second}, {anytime, 1, 0, 400 * time.Millisecond}, {starting, 1, 0, 80 * time.Millisecond},
	{returning, 1, 0, 40 * time.Millisecond}, {resuming, 20, 0, 5 * time.Millisecond}, {acked, 400, 0, 2 * time.Millisecond},
	{releasing, 200, 0, 2 * time.Millisecond}, {storming, 20, 0, 10 * time.Millisecond}, {asking, 12, 0, 3 * time.Millisecond},
	{ending, 2, 0, 3 * time.Millisecond}, {leaving, 2, 0, 5 * time.Millisecond},
	{falling, 1, delayOfFalling - 15*time.Millisecond, delayOfFalling + 15*time.Millisecond},
	{bursting, 800, 0, 2500 * time.Millisecond},
}

// The Will Delay Interval of the client that the moment "falling" waits for, and
// its name.
const (
	delayOfFalling = time.Second
	nameOfFalling  = "mortal2"
)

// newScenario makes the scenario of a seed; kills < 0 leaves their number to it.
func newScenario(seed uint64, kills int) *scenario {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 0)), seed: seed}
	s := &scenario{Seed: seed, Calm: g.between(300, 900)}
	n := 4 + g.rng.IntN(5)
	if kills >= 0 {
		n = kills
	}
	for range n {
		m := moments[g.rng.IntN(len(moments))]
		s.Kills = append(s.Kills, kill{m.moment, 1 + g.rng.IntN(m.nth), m.least + time.Duration(g.rng.Int64N(int64(m.most-m.least)))})
	}
	if n == 0 {
		s.Calm = 2500 * time.Millisecond
	}
	g.publishers()
	g.subscribers()
	g.groups()
	g.retained()
	g.wills()
	g.guests()
	s.Roles = g.roles
	return s
}

// generator makes the roles of a scenario.
type generator struct {
	rng   *rand.Rand
	seed  uint64
	roles []role
	named map[string]int
}

// add names the role and keeps it. Names and topics begin with the seed, so that
// rounds on one data directory do not meet.
func (g *generator) add(name string, r role) {
	if g.named == nil {
		g.named = make(map[string]int)
	}
	g.named[name]++
	r.Name = fmt.Sprintf("%d-%s%d", g.seed, name, g.named[name])
	if r.Version == 0 {
		r.Version = pick(g, mqtt.V311, mqtt.V5)
	}
	if r.Durable && r.Expiry == 0 {
		r.Expiry = pick[uint32](g, 300, forever)
	}
	r.LowIDs = g.rng.IntN(2) == 0
	g.roles = append(g.roles, r)
}

func pick[T any](g *generator, from ...T) T { return from[g.rng.IntN(len(from))] }

// between is a time between two in milliseconds.
func (g *generator) between(from, to int) time.Duration {
	return time.Duration(from+g.rng.IntN(to-from)) * time.Millisecond
}

func (g *generator) topic(format string, args ...any) string {
	return fmt.Sprintf("%d/", g.seed) + fmt.Sprintf(format, args...)
}

// Topics are t/0/0 to t/2/3 for those who subscribe alone, s/0 to s/2 for groups,
// keep/… for retained messages and will/… for wills.
func (g *generator) publishers() {
	for i := range 8 {
		r := role{
			Kind: publisher, QoS: mqtt.QoS(1 + i%2), Durable: i < 6, Window: pick(g, 1, 5, 20, 100), Messages: 2500,
			Every: g.between(3, 25), Burst: pick(g, 0, 50, 300),
		}
		for range 1 + g.rng.IntN(3) {
			r.Topics = append(r.Topics, g.topic("t/%d/%d", g.rng.IntN(3), g.rng.IntN(4)))
		}
		if i%4 < 2 {
			r.Topics = append(r.Topics, g.topic("s/%d", g.rng.IntN(3)))
		}
		if g.rng.IntN(3) == 0 {
			r.Stay, r.Away = g.between(200, 800), g.between(5, 100)
		}
		name := "pub"
		if !r.Durable {
			name = "fleeting"
		}
		g.add(name, r)
	}
}

// filters that overlap, over the topics of publishers.
func (g *generator) filters(n int) []filterQoS {
	all := []string{"t/#", "t/+/1", "t/0/#", "t/1/2", "t/2/+", "+/0/+", "t/+/0", "t/0/1", "#"}
	g.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var found []filterQoS
	for _, f := range all {
		if f != "#" && len(found) < n {
			found = append(found, filterQoS{g.topic("%s", f), mqtt.QoS(1 + g.rng.IntN(2))})
		}
	}
	return found
}

func (g *generator) habits(r role) role {
	r.AckLag = pick(g, 0, 0, 2*time.Millisecond, 30*time.Millisecond)
	r.ReceiveMax = pick[uint16](g, 0, 0, 1, 5, 20)
	if g.rng.IntN(3) > 0 {
		r.Stay, r.Away = g.between(100, 1200), g.between(5, 800)
	}
	return r
}

func (g *generator) subscribers() {
	for i := range 4 {
		r := g.habits(role{Kind: subscriber, Durable: true, Filters: g.filters(1 + g.rng.IntN(3))})
		if i == 0 {
			r.Stay, r.Away = g.between(100, 300), time.Hour // until the end of the round
		}
		g.add("sub", r)
	}
	for range 2 {
		f := g.filters(5)
		g.add("changer", g.habits(role{Kind: changer, Durable: true, Filters: f[:1], Extra: f[1:], Every: g.between(20, 150)}))
	}
	for range 2 {
		r := g.habits(role{Kind: ender, Durable: true, Filters: g.filters(2)})
		r.Stay, r.Away = g.between(100, 500), g.between(5, 200)
		g.add("ender", r)
	}
	g.add("fleetsub", g.habits(role{Kind: subscriber, Filters: g.filters(2)}))
	expiring := g.habits(role{Kind: subscriber, Durable: true, Version: mqtt.V5, Expiry: 1, Filters: g.filters(2)})
	expiring.Stay, expiring.Away = g.between(200, 700), g.between(700, 2500)
	g.add("expiring", expiring)
}

func (g *generator) groups() {
	for i := range 4 {
		q := mqtt.QoS(1 + i%2)
		f := []filterQoS{{"$share/g" + fmt.Sprint(i) + "/" + g.topic("%s", pick(g, "s/#", "s/+", "s/0")), q}}
		for j := range 3 {
			// Two groups have lasting members only: their QoS 2 messages can't vanish
			// with a member.
			r := g.habits(role{Kind: subscriber, Durable: j == 0 || i == 1 || i == 2, Filters: f, Version: mqtt.V5})
			g.add(fmt.Sprintf("member%d-", i), r)
		}
	}
	// Shared Subscriptions are not for 5.0 alone here: the broker promises them to
	// 3.1.1 clients too.
	g.roles[len(g.roles)-1].Version = mqtt.V311
	g.add("all", g.habits(role{Kind: subscriber, Durable: true, Filters: []filterQoS{{g.topic("s/#"), mqtt.QoS2}}}))
}

func (g *generator) retained() {
	for i := range 2 {
		g.add("keeper", role{
			Kind: publisher, QoS: mqtt.QoS(1 + i), Durable: true, Window: pick(g, 1, 10), Messages: 600, Every: g.between(5, 30), Retain: true,
			Topics: []string{g.topic("keep/%d/a", i), g.topic("keep/%d/b", i), g.topic("keep/%d/c", i)},
		})
	}
	for range 2 {
		g.add("reader", role{
			Kind: reader, Filters: []filterQoS{{g.topic("%s", pick(g, "keep/#", "keep/+/a", "keep/0/+")), mqtt.QoS(1 + g.rng.IntN(2))}},
			Stay: g.between(20, 100), Away: g.between(50, 300),
		})
	}
	g.add("keepsub", g.habits(role{Kind: subscriber, Durable: true, Filters: []filterQoS{{g.topic("keep/#"), mqtt.QoS2}}}))
}

func (g *generator) wills() {
	for i := range 2 {
		g.add("watcher", g.habits(role{Kind: subscriber, Durable: true, Filters: []filterQoS{{g.topic("will/#"), mqtt.QoS(1 + i)}}}))
	}
	for i := range 5 {
		r := role{Kind: mortal, Durable: i < 3, WillQoS: mqtt.QoS(1 + g.rng.IntN(2)), Stay: g.between(100, 600), Away: g.between(50, 400)}
		if i == 1 || i == 2 {
			r.Version, r.WillDelay = mqtt.V5, uint32(i)
		}
		r.WillTopic = g.topic("will/%d", i)
		g.add("mortal", r)
	}
}

func (g *generator) guests() {
	every := g.between(400, 900)
	for i := range 16 {
		g.add("guest", role{
			Kind: guest, Durable: i%2 == 0, Every: every, Stay: g.between(5, 80), Filters: g.filters(1), QoS: mqtt.QoS1,
			Topics: []string{g.topic("t/%d/%d", g.rng.IntN(3), g.rng.IntN(4))},
		})
	}
}

// String is the scenario as the file of a failure shows it.
func (s *scenario) String() string {
	var b strings.Builder
	for _, k := range s.Kills {
		fmt.Fprintf(&b, "kill %s nth=%d after=%s\n", k.Moment, k.Nth, k.After.Round(time.Microsecond))
	}
	for _, r := range s.Roles {
		fmt.Fprintf(&b, "%s %s %+v\n", r.Kind, r.Name, r)
	}
	return b.String()
}

// source is the role's own source of choices: it does not depend on who else
// takes part.
func (s *scenario) source(name string) *rand.Rand {
	sum := fnv.New64a()
	sum.Write([]byte(name))
	return rand.New(rand.NewPCG(s.Seed, sum.Sum64()))
}
