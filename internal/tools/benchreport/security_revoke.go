package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"fairlead/admin"
	"fairlead/device"
	"fairlead/mqtt/packet"
)

const (
	// filesSpared are open files that neither this program nor the broker needs for the
	// connections, whose number the limit of the two bounds.
	filesSpared = 500
	thousand    = 1000 // clients that the first change of the policy touches
	// goneTimeout is how long a client may be told nothing before the run gives up.
	goneTimeout = 30 * time.Second
	// afterglow is how long the others are watched when the last client is gone.
	afterglow = time.Second
)

// The devices of the revocation, in their order in the registry: the pair that must not
// notice anything, one with a certificate, and the others with passwords.
const (
	bystander  = "bystander"
	certified  = "certified"
	othersFrom = 2
)

// A revocation is a step of a run. Each of the clients that it touches must be
// disconnected, and no others.
type revocation struct {
	key, name string
	touches   func(i int) bool // client i, where 0 is the one with the certificate
	act       func(ctx context.Context, c *admin.Client, f *fleet) error
}

// revocations are the steps in their order.
var revocations = []revocation{
	{
		"suspend", "one device is suspended", func(i int) bool { return i == 1 },
		func(ctx context.Context, c *admin.Client, _ *fleet) error {
			_, err := c.SuspendDevice(ctx, revokedDevice(othersFrom).Name, admin.Change{})
			return err
		},
	},
	{
		"certificate", "the certificate of one device is revoked", func(i int) bool { return i == 0 },
		func(ctx context.Context, c *admin.Client, f *fleet) error {
			_, err := c.RevokeCertificate(ctx, certified, string(f.serials[certified]), "lost")
			return err
		},
	},
	{
		"some", "a policy takes the right to connect from up to 1,000", func(i int) bool { return i > 1 && i <= thousand+1 },
		func(ctx context.Context, c *admin.Client, _ *fleet) error { return applyRevoking(ctx, c, "others") },
	},
	{
		"all", "it takes the right from all others", func(i int) bool { return i > thousand+1 },
		func(ctx context.Context, c *admin.Client, _ *fleet) error { return applyRevoking(ctx, c) },
	},
}

// revokedDevice is a device of the revocation.
func revokedDevice(i int) device.Device {
	switch {
	case i == 0:
		return device.Device{Name: bystander, Groups: []string{"bystanders"}}
	case i == 1:
		return device.Device{Name: certified, Groups: []string{"others"}}
	case i <= othersFrom+thousand: // the first of them is suspended before that
		return device.Device{Name: fmt.Sprintf("device-%06d", i), Groups: []string{"thousand"}}
	}
	return device.Device{Name: fmt.Sprintf("device-%06d", i), Groups: []string{"others"}}
}

// revokingPolicies lets the groups connect, and the pair, and nobody else.
func revokingPolicies(groups ...string) string {
	return "builtin: off\npolicies:\n  connected:\n    who: {groups: [" + strings.Join(append([]string{"bystanders"}, groups...), ", ") +
		"]}\n    allow:\n      - connect: [\"{device}\", \"{device}:*\"]\n        publish: devices/{device}/#\n        subscribe: devices/{device}/#\n"
}

func applyRevoking(ctx context.Context, c *admin.Client, groups ...string) error {
	_, err := c.ApplyPolicy(ctx, "connecting", []byte(revokingPolicies(groups...)), admin.AnyVersion)
	return err
}

// measureRevocation connects as many devices as the command line and the limit of open
// files allow, and takes their rights away: from one, a thousand, all. Meanwhile a pair
// of clients that nothing is taken from measures how long its messages take.
func measureRevocation(ctx context.Context, b *bench, broker broker) (result, error) {
	n, err := liveMost(b.live)
	if err != nil {
		return nil, err
	}
	// What a run has changed is in the registry, so each has a fleet of its own.
	f, err := newFleet(ctx, b.dir, fleetSpec{devices: n + 1, passwords: n + 1, certified: othersFrom, logins: 1, device: revokedDevice})
	if err != nil {
		return nil, fmt.Errorf("make the devices: %w", err)
	}
	defer f.remove()
	s := &rig{bench: b, broker: broker, probe: f.byPassword(bystander, ""), l: layout{fleet: f}, r: result{"n": float64(n)}}
	return s.run(ctx, func(ctx context.Context, s *rig) error { return s.revoke(ctx, n) })
}

// liveMost is how many connections there may be of those asked for.
func liveMost(wanted int) (int, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	if files.Max <= 2*filesSpared {
		return 0, fmt.Errorf("%d open files are allowed, expected more than %d", files.Max, 2*filesSpared)
	}
	return int(min(uint64(wanted), files.Max-filesSpared)), nil
}

// revoke does it, with n clients beside the pair.
func (s *rig) revoke(ctx context.Context, n int) error {
	operator, err := admin.Dial(ctx, s.l.fleet.data)
	if err != nil {
		return err
	}
	if err := applyRevoking(ctx, operator, "thousand", "others"); err != nil {
		return fmt.Errorf("first policy: %w", err)
	}
	crowd := newCrowd(n)
	defer crowd.close()
	if err := s.timed("connect", n, func() error { return s.gather(ctx, crowd) }); err != nil {
		return err
	}
	crowd.watch()
	rss, _, err := s.p.memory()
	if err != nil {
		return err
	}
	s.r["live_mib"] = mib(float64(rss))
	if err := s.besidePair(ctx, "quiet", func() error { return nil }); err != nil {
		return err
	}
	for _, step := range revocations {
		touched := crowd.touched(step.touches)
		if len(touched) == 0 {
			continue // the run is too small for this step
		}
		if err := s.besidePair(ctx, step.key, func() error { return s.revokeOne(ctx, operator, crowd, step, touched) }); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// besidePair does something while a pair of clients of another process, which nothing is
// taken from, exchanges messages, and notes how long those took. In this process the pair
// would have to wait until a thousand other clients have seen that they are disconnected.
func (s *rig) besidePair(ctx context.Context, name string, do func() error) error {
	what := securityScenario(revokeScenario)
	line := append(s.benchLine(what, s.l, s.p.Pid), "--logins", s.l.fleet.logins, "-t", "devices/{user}/pair")
	type outcome struct {
		r   result
		err error
	}
	ended := make(chan outcome, 1)
	go func() { // ends with the load's duration, or ctx
		r, err := s.load(ctx, what, line)
		ended <- outcome{r, err}
	}()
	err := pause(ctx, time.Duration(s.publishing(what)*float64(time.Second))/pairLead)
	if err == nil {
		err = do()
	}
	pair := <-ended
	if err := errors.Join(err, pair.err); err != nil {
		return err
	}
	for to, from := range map[string]string{"_p50_us": "latency_us.p50", "_p99_us": "latency_us.p99", "_max_us": "latency_us.max"} {
		s.r[name+to] = pair.r.number(from)
	}
	s.r[name+"_lost"] = pair.r.number("lost") + pair.r.number("broken")
	return nil
}

// pairLead is the part of its time that the pair is alone.
const pairLead = 6

// gather connects the clients: the first by its certificate, the others by password.
func (s *rig) gather(ctx context.Context, c *crowd) error {
	f := s.l.fleet
	return s.each(ctx, len(c.clients), func(i int) (err error) {
		who := f.byPassword(revokedDevice(i+1).Name, "")
		if i == 0 {
			who = f.byCertificate(certified, "", nil)
		}
		c.clients[i], err = who.dial(ctx, s.l.portOf(who))
		return err
	})
}

// revokeOne does one step, and waits until those that it touches have gone.
func (s *rig) revokeOne(ctx context.Context, operator *admin.Client, c *crowd, step revocation, touched []int) error {
	begin := time.Now()
	if err := step.act(ctx, operator, s.l.fleet); err != nil {
		return err
	}
	s.r[step.key+"_command_ms"] = time.Since(begin).Seconds() * 1e3
	err := c.wait(ctx, touched)
	if err == nil {
		err = pause(ctx, min(afterglow, time.Duration(len(c.clients))*time.Millisecond)) // somebody else may go
	}
	s.countGone(step.key, c.take(), touched, begin)
	return err
}

// countGone notes who has gone since begin, and who should have.
func (s *rig) countGone(key string, gone map[int]departure, touched []int, begin time.Time) {
	var took []float64
	told := 0
	for _, i := range touched {
		d, ok := gone[i]
		if !ok {
			continue
		}
		took = append(took, d.at.Sub(begin).Seconds()*1e3)
		if d.told {
			told++
		}
		delete(gone, i)
	}
	n := len(took)
	s.r[key+"_clients"], s.r[key+"_stayed"] = float64(len(touched)), float64(len(touched)-n)
	s.r[key+"_untold"], s.r[key+"_disturbed"] = float64(n-told), float64(len(gone))
	if n == 0 {
		return
	}
	slices.Sort(took)
	s.r[key+"_p50_ms"], s.r[key+"_max_ms"] = took[n/2], took[n-1]
	s.say("%s: %d of %d clients gone, p50 %.1f ms, max %.1f ms; %d others gone", key, n, len(touched), took[n/2], took[n-1], len(gone))
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A departure is the end of a client's connection.
type departure struct {
	at   time.Time
	told bool // by a DISCONNECT
}

// A crowd is many clients that are connected and silent.
type crowd struct {
	clients  []*client
	watching sync.WaitGroup
	news     chan struct{} // somebody has left

	mu   sync.Mutex        // guards what follows
	left map[int]departure // since the last take
	gone map[int]bool      // before that
}

func newCrowd(n int) *crowd {
	return &crowd{clients: make([]*client, n), news: make(chan struct{}, 1), left: make(map[int]departure), gone: make(map[int]bool)}
}

// watch notes from now on who leaves.
func (c *crowd) watch() {
	for i, one := range c.clients {
		c.watching.Go(func() { // ends with the connection
			err := one.read(func(packet.Packet) bool { return true })
			c.note(i, departure{time.Now(), errors.Is(err, errGone)})
		})
	}
}

func (c *crowd) note(i int, d departure) {
	c.mu.Lock()
	c.left[i] = d
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default: // there are news already
	}
}

// touched are the clients still there that a step is about.
func (c *crowd) touched(is func(i int) bool) (list []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.clients {
		if _, left := c.left[i]; is(i) && !left && !c.gone[i] {
			list = append(list, i)
		}
	}
	return list
}

// wait returns when all of them have left.
func (c *crowd) wait(ctx context.Context, all []int) error {
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	for {
		left := c.leftOf(all)
		if left == len(all) {
			return nil
		}
		select {
		case <-c.news:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d clients are still connected: %w", len(all)-left, len(all), ctx.Err())
		}
	}
}

// leftOf is how many of them have left.
func (c *crowd) leftOf(all []int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.left) < len(all) {
		return len(c.left) // it need not be looked at who they are
	}
	for _, i := range all {
		if _, ok := c.left[i]; ok {
			n++
		}
	}
	return n
}

// take hands over who has left since the last time.
func (c *crowd) take() map[int]departure {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.left
	c.left = make(map[int]departure)
	for i := range taken {
		c.gone[i] = true
	}
	return taken
}

// close ends all connections, and waits for those who watch them.
func (c *crowd) close() {
	for _, one := range c.clients {
		if one != nil {
			one.abandon()
		}
	}
	c.watching.Wait()
}
