package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"net"
	"net/netip"
	"sync"
	"time"

	"fairlead/listen"
)

// Guessing is slowed per source address (IPv6: per /64) and per identity that is
// claimed. The first failures are free; after them each doubles the time until the
// next attempt is looked at, from delayFirst up to a limit. An attempt before that
// is answered at once with 0x9F Connection rate exceeded, and nothing is checked.
// It is not held back instead, because a connection that waits costs us more than
// the attacker, who simply opens more of them.
//
// A stranger can't lock anybody out by this:
//
//   - An identity that has logged in from a source before has a record of its own
//     with that source, and neither what happens at other sources nor what other
//     identities do at the same source counts for it.
//   - The same wrong secret again is no new guess, and the source does not pay for
//     it: a device with an old password does not slow its neighbours behind the
//     same address.
//   - Certificates can't be guessed and are not slowed at all.
//   - Nothing lasts: the failures count half after each forgetEvery.
//
// What remains: whoever shares the address of a device and guesses at exactly that
// device competes with it for one attempt each knownDelayMax.
const (
	freeFailures     = 10
	delayFirst       = time.Second
	sourceDelayMax   = 5 * time.Minute
	identityDelayMax = 5 * time.Minute
	knownDelayMax    = 30 * time.Second
	forgetEvery      = 10 * time.Minute

	// Attempts that are looked at at the same time, or they would all be under way
	// before the first has failed. Beyond them: 0x9F.
	sourceAtOnce   = 256
	identityAtOnce = 64

	// Records that are kept. Beyond them the one that was not used for longest goes:
	// whoever wants to push one out has to fail that often himself.
	sourcesMax    = 65_536
	identitiesMax = 65_536
	knownMax      = 262_144 // identity and source that have succeeded together
)

// brake slows guessing.
type brake struct {
	key [sha256.Size]byte // keys of the tables are hashes: short, and nobody can aim at a collision

	mu         sync.Mutex // guards what follows, records included
	sources    *recent[recordKey, *record]
	identities *recent[recordKey, *record]
	known      *recent[recordKey, *record]
}

type recordKey [16]byte

// record counts the failures of one source, one identity, or one pair of them.
type record struct {
	failures int
	last     time.Time // when the latest was
	pending  int       // attempts that are being looked at
	guess    recordKey // the latest secret that was wrong
}

// count is how many failures still count.
func (r *record) count(now time.Time) int {
	return r.failures >> min(uint(max(now.Sub(r.last), 0)/forgetEvery), 32)
}

// delay is how long after its latest failure a record keeps others away.
func delay(failures int, most time.Duration) time.Duration {
	if failures < freeFailures {
		return 0
	}
	return min(delayFirst<<min(failures-freeFailures, 16), most)
}

// allows reports whether an attempt may be looked at.
func (r *record) allows(now time.Time, most time.Duration, atOnce int) bool {
	n := r.count(now)
	if n >= freeFailures && r.pending > 0 {
		return false
	}
	return r.pending < atOnce && !now.Before(r.last.Add(delay(n, most)))
}

func (r *record) fail(now time.Time) {
	r.failures, r.last = r.count(now)+1, now
}

// try is one attempt that is being looked at.
type try struct {
	source, identity, pair recordKey
	guess                  recordKey
	bySource, byIdentity   *record // nil: not counted
	byPair                 *record // instead of the others, if the pair is known
	paired                 bool    // there are both a source and an identity
}

func newBrake() *brake {
	b := &brake{
		sources:    newRecent[recordKey, *record](sourcesMax),
		identities: newRecent[recordKey, *record](identitiesMax),
		known:      newRecent[recordKey, *record](knownMax),
	}
	rand.Read(b.key[:])
	return b
}

func (b *brake) hash(parts ...[]byte) recordKey {
	h := sha256.New()
	h.Write(b.key[:])
	writeParts(h, parts...)
	var sum [sha256.Size]byte
	return recordKey(h.Sum(sum[:0]))
}

// begin asks whether a secret may be looked at that a source shows for an
// identity; nil: not now. An invalid source or an empty identity is not counted.
// Whoever begins ends.
func (b *brake) begin(source netip.Prefix, identity string, secret []byte, now time.Time) *try {
	s := []byte(source.String())
	t := &try{
		source: b.hash(s), identity: b.hash([]byte(identity)), pair: b.hash(s, []byte(identity)),
		guess: b.hash([]byte(identity), secret), paired: source.IsValid() && identity != "",
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if known, ok := b.known.get(t.pair); ok && t.paired {
		if !known.allows(now, knownDelayMax, identityAtOnce) {
			return nil
		}
		t.byPair = known
		known.pending++
		return t
	}
	if source.IsValid() {
		t.bySource = recordOf(b.sources, t.source)
	}
	if identity != "" {
		t.byIdentity = recordOf(b.identities, t.identity)
	}
	if t.bySource != nil && !t.bySource.allows(now, sourceDelayMax, sourceAtOnce) ||
		t.byIdentity != nil && !t.byIdentity.allows(now, identityDelayMax, identityAtOnce) {
		b.tidyLocked(t)
		return nil
	}
	for _, r := range []*record{t.bySource, t.byIdentity} {
		if r != nil {
			r.pending++
		}
	}
	return t
}

func recordOf(t *recent[recordKey, *record], k recordKey) *record {
	if r, ok := t.get(k); ok {
		return r
	}
	r := new(record)
	t.put(k, r)
	return r
}

// outcome is how an attempt has ended.
type outcome int

const (
	undecided outcome = iota // neither: nobody could say, or it was no guess
	succeeded
	failed
)

// end counts how the attempt has ended.
func (b *brake) end(t *try, o outcome, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range []*record{t.bySource, t.byIdentity, t.byPair} {
		if r != nil {
			r.pending--
		}
	}
	switch o {
	case failed:
		t.failedLocked(now)
	case succeeded:
		if t.paired && t.byPair == nil {
			b.known.put(t.pair, new(record))
		}
	}
	b.tidyLocked(t)
}

func (t *try) failedLocked(now time.Time) {
	if t.byPair != nil {
		t.byPair.fail(now)
		return
	}
	again := false
	if r := t.byIdentity; r != nil {
		again = r.guess == t.guess
		r.guess = t.guess
		r.fail(now)
	}
	if t.bySource != nil && !again {
		t.bySource.fail(now)
	}
}

// tidyLocked removes records that say nothing: those who succeed must not push out
// those who fail.
func (b *brake) tidyLocked(t *try) {
	tidy(b.sources, t.source, t.bySource)
	tidy(b.identities, t.identity, t.byIdentity)
}

func tidy(t *recent[recordKey, *record], k recordKey, r *record) {
	if r == nil || r.failures > 0 || r.pending > 0 {
		return
	}
	if there, ok := t.get(k); ok && there == r { // it may have been displaced meanwhile
		t.remove(k)
	}
}

// sourceOf is the part of the network that an attempt counts for. It is not valid
// for connections that do not come by IP.
func sourceOf(info *listen.Info) netip.Prefix {
	ip := sourceAddr(info)
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64 // what one customer of a provider has at least
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// sourceAddr is the Client's IP address; not valid if it has none.
func sourceAddr(info *listen.Info) netip.Addr {
	tcp, ok := info.Remote.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// local reports whether a connection comes from the same machine.
func local(info *listen.Info) bool {
	if a := sourceAddr(info); a.IsValid() {
		return a.IsLoopback()
	}
	return info.Remote != nil && info.Remote.Network() == "unix"
}
