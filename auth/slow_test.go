package auth

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
)

// guesser is a bench with the user ann, whose password is "right".
func guesser(t *testing.T) *bench {
	b := newBench(t, cheapPassword())
	b.reg.user("ann", cheap("right"))
	return b
}

// fail makes n different wrong guesses, and ends with the identity or the source slowed.
func (b *bench) fail(address, user string, n int) {
	b.t.Helper()
	for i := range n {
		b.refuse(by(address, "x", user, fmt.Sprintf("guess %d at %v", i, b.clock.Now())), mqtt.BadUserNameOrPassword)
	}
}

func TestGuessingIsSlowedPerIdentity(t *testing.T) {
	b := guesser(t)
	for i := range freeFailures { // from everywhere
		b.fail(fmt.Sprintf("203.0.113.%d", i+1), "ann", 1)
	}
	r := b.refuse(by("203.0.113.99", "x", "ann", "right"), mqtt.ConnectionRateExceeded)
	if r.Identity != "ann" || b.Slowed.Load() != 1 {
		t.Errorf("told %+v; Slowed = %d", r, b.Slowed.Load())
	}
	b.clock.advance(delayFirst)
	b.fail("203.0.113.99", "ann", 1)
	b.clock.advance(delayFirst) // the delay has doubled
	b.refuse(by("203.0.113.99", "x", "ann", "right"), mqtt.ConnectionRateExceeded)
	b.clock.advance(delayFirst)
	b.accept(by("203.0.113.99", "x", "ann", "right"))
	b.reg.user("bob", cheap("right"))
	b.accept(by("203.0.113.98", "x", "bob", "right")) // is not touched
}

func TestGuessingIsSlowedPerSource(t *testing.T) {
	for _, tt := range []struct{ attacker, sameSource, elsewhere string }{
		{"203.0.113.7", "203.0.113.7", "203.0.113.8"},
		{"2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"},
		{"::ffff:203.0.113.7", "203.0.113.7", "::ffff:203.0.113.8"},
	} {
		b := guesser(t)
		for i := range freeFailures {
			b.fail(tt.attacker, fmt.Sprintf("user %d", i), 1)
		}
		b.refuse(by(tt.sameSource, "x", "ann", "right"), mqtt.ConnectionRateExceeded)
		b.accept(by(tt.elsewhere, "x", "ann", "right"))
	}
}

func TestDelayGrowsToItsLimit(t *testing.T) {
	for n, want := range map[int]time.Duration{
		0: 0, freeFailures - 1: 0, freeFailures: time.Second, freeFailures + 3: 8 * time.Second,
		freeFailures + 9: identityDelayMax, 1 << 40: identityDelayMax,
	} {
		if got := delay(n, identityDelayMax); got != want {
			t.Errorf("delay(%d) = %v, want %v", n, got, want)
		}
	}
}

func TestFailuresAreForgotten(t *testing.T) {
	b := guesser(t)
	b.fail(faraway, "ann", freeFailures)
	b.refuse(by(faraway, "x", "ann", "right"), mqtt.ConnectionRateExceeded)
	b.clock.advance(forgetEvery)
	b.fail(faraway, "ann", freeFailures/2) // half are forgotten
	b.refuse(by(faraway, "x", "ann", "right"), mqtt.ConnectionRateExceeded)
}

// A stranger who guesses at a device, from anywhere, does not keep it out.
func TestStrangersCantLockOut(t *testing.T) {
	b := guesser(t)
	home, attacker := by("198.51.100.1", "x", "ann", "right"), "203.0.113.7"
	b.accept(home)
	for i := range 100 {
		b.clock.advance(time.Hour / 100)
		b.Identify(by(attacker, "x", "ann", fmt.Sprint("guess ", i)))
		b.accept(home)
	}
	if b.Slowed.Load() == 0 {
		t.Error("the attacker was never slowed")
	}
	b.refuse(by("198.51.100.2", "x", "ann", "right"), mqtt.ConnectionRateExceeded) // has not been there before
}

// Many devices behind one address, one of them with an old password: the others, new
// ones too, are not slowed. Somebody who guesses there slows the new ones only.
func TestNeighboursBehindOneAddress(t *testing.T) {
	b := guesser(t)
	for i := range 3 {
		b.reg.user(fmt.Sprint("dev", i), cheap("right"))
	}
	b.accept(by(faraway, "x", "dev0", "right"))
	for range 10 * freeFailures {
		b.Identify(by(faraway, "x", "ann", "old password"))
		b.clock.advance(time.Second)
	}
	b.accept(by(faraway, "x", "dev1", "right"))
	for i := range freeFailures - 1 { // the old password is the first
		b.fail(faraway, fmt.Sprintf("user %d", i), 1)
	}
	b.refuse(by(faraway, "x", "dev2", "right"), mqtt.ConnectionRateExceeded)
	b.accept(by(faraway, "x", "dev0", "right"))
	b.accept(by(faraway, "x", "dev1", "right"))
}

func TestGuessingAtOnesNeighbourIsSlowedToo(t *testing.T) {
	b := guesser(t)
	b.accept(by(faraway, "x", "ann", "right"))
	b.fail(faraway, "ann", freeFailures)
	for range 10 {
		b.clock.advance(knownDelayMax)
		b.fail(faraway, "ann", 1)
	}
	b.clock.advance(knownDelayMax - 1)
	b.refuse(by(faraway, "x", "ann", "right"), mqtt.ConnectionRateExceeded)
	b.clock.advance(1)
	b.accept(by(faraway, "x", "ann", "right"))
}

func (b *bench) failOnce(address, user string) bool {
	_, v := b.Identify(by(address, "x", user, fmt.Sprint(b.clock.Now().UnixNano())))
	return v.Code == mqtt.ConnectionRateExceeded
}

func TestSuccessDoesNotBuyGuesses(t *testing.T) {
	b := guesser(t)
	b.reg.user("mallory", cheap("own"))
	slowed := false
	for i := range 3 * freeFailures { // an own account in between
		b.Identify(by(faraway, "x", "mallory", "own"))
		b.clock.advance(time.Millisecond)
		slowed = b.failOnce(faraway, fmt.Sprint("user", i)) || slowed
	}
	if !slowed {
		t.Error("successes in between undo the failures")
	}
}

func TestCertificatesAreNotSlowed(t *testing.T) {
	b := newBench(t, certificate("pump", "0A", nil), cheapPassword())
	b.reg.device("pump")
	for i := range freeFailures {
		b.fail(faraway, fmt.Sprintf("user %d", i), 1)
	}
	b.refuse(by(faraway, "x", "pump", "?"), mqtt.ConnectionRateExceeded)
	b.accept(withCertificate(bare(faraway, "pump")))
}

func TestAttemptsAtOnceAreLimited(t *testing.T) {
	br, now := newBrake(), newClock().now
	source := netip.MustParsePrefix("203.0.113.7/32")
	var tries []*try
	for range identityAtOnce {
		tr := br.begin(source, "ann", []byte("guess"), now)
		if tr == nil {
			t.Fatal("not looked at")
		}
		tries = append(tries, tr)
	}
	if br.begin(source, "ann", []byte("guess"), now) != nil {
		t.Errorf("%d attempts at one identity at once", identityAtOnce+1)
	}
	for i := len(tries); i < sourceAtOnce; i++ {
		if br.begin(source, fmt.Sprint("user", i), nil, now) == nil {
			t.Fatalf("attempt %d from one source is not looked at", i)
		}
	}
	if br.begin(source, "another", nil, now) != nil {
		t.Errorf("%d attempts from one source at once", sourceAtOnce+1)
	}
	for _, tr := range tries {
		br.end(tr, succeeded, now)
	}
	if br.begin(source, "ann", nil, now) == nil {
		t.Error("not looked at after the others have ended")
	}
}

// Under suspicion one attempt is looked at at a time, or all of a burst would be.
func TestBurstAfterTheDelay(t *testing.T) {
	br, now := newBrake(), newClock().now
	for i := range freeFailures {
		br.end(br.begin(netip.Prefix{}, "ann", []byte{byte(i)}, now), failed, now)
	}
	now = now.Add(delayFirst)
	first := br.begin(netip.Prefix{}, "ann", []byte("a"), now)
	if first == nil || br.begin(netip.Prefix{}, "ann", []byte("b"), now) != nil {
		t.Error("not exactly one attempt is looked at")
	}
	br.end(first, undecided, now)
	if br.begin(netip.Prefix{}, "ann", []byte("b"), now) == nil {
		t.Error("the next is not looked at")
	}
}

func TestRecordsAreLimited(t *testing.T) {
	br, now := newBrake(), newClock().now
	br.sources, br.identities, br.known = newRecent[recordKey, *record](10), newRecent[recordKey, *record](10), newRecent[recordKey, *record](10)
	source := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
	}
	held := br.begin(source(0), "user0", nil, now) // its records are displaced while it is looked at
	for i := range 1000 {
		br.end(br.begin(source(i), fmt.Sprint("user", i), nil, now), failed, now)
	}
	if s, i := len(br.sources.byKey), len(br.identities.byKey); s != 10 || i != 10 {
		t.Errorf("%d sources and %d identities are held, want 10 each", s, i)
	}
	br.end(held, succeeded, now)
	for i := range 1000 {
		br.end(br.begin(source(i), fmt.Sprint("good", i), nil, now), succeeded, now)
	}
	if s, i, k := len(br.sources.byKey), len(br.identities.byKey), len(br.known.byKey); s < 9 || i < 9 || k != 10 { // one makes room for the attempt that is looked at
		t.Errorf("%d sources, %d identities, %d pairs: successes displace failures, or pairs have no limit", s, i, k)
	}
}

// The record of an attempt may have been displaced and made anew while it was looked at.
func TestTidyingLeavesTheNewRecord(t *testing.T) {
	br, now := newBrake(), newClock().now
	br.identities = newRecent[recordKey, *record](1)
	held := br.begin(netip.Prefix{}, "ann", nil, now)
	for _, identity := range []string{"bob", "ann"} {
		br.end(br.begin(netip.Prefix{}, identity, nil, now), failed, now)
	}
	br.end(held, succeeded, now)
	if r, ok := br.identities.get(held.identity); !ok || r.failures != 1 {
		t.Errorf("the record of the failure is %+v, %v", r, ok)
	}
}

func TestLocal(t *testing.T) {
	for _, tt := range []struct {
		remote net.Addr
		local  bool
		source string
	}{
		{&net.TCPAddr{IP: net.ParseIP("127.0.0.5")}, true, "127.0.0.5/32"},
		{&net.TCPAddr{IP: net.ParseIP("::1")}, true, "::/64"},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, false, "fe80::/64"},
		{&net.TCPAddr{}, false, "invalid Prefix"},
		{&net.UnixAddr{Net: "unix"}, true, "invalid Prefix"},
		{nil, false, "invalid Prefix"},
	} {
		info := &listen.Info{Remote: tt.remote}
		if got, s := local(info), sourceOf(info).String(); got != tt.local || s != tt.source {
			t.Errorf("%v: local = %v, source = %s, want %v, %s", tt.remote, got, s, tt.local, tt.source)
		}
	}
}
