package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"

	"fairlead/mqtt"
)

// PasswordOptions bound what passwords may cost. The zero value works.
type PasswordOptions struct {
	// AtOnce is how many hashes are computed at the same time, each with 19 MiB and
	// one core; 0: half the cores, at least one.
	AtOnce int
	// Wait is how long an attempt waits for its turn; then it is refused with 0x89
	// Server busy. 0: five seconds.
	Wait time.Duration
	// CacheFor is how long a password that was right is known to be right without
	// another hash; 0: an hour.
	CacheFor time.Duration
}

const (
	// hashersWaiting is how many attempts wait for their turn; more are refused with
	// 0x89 at once.
	hashersWaiting = 4096
	// verifiedMax is how many passwords that were right are remembered; beyond it the
	// one that was not used for longest is hashed again. An entry has about 200 bytes.
	verifiedMax = 131_072
)

// Password accepts users and devices of the registry by their name and password.
//
// A hash takes tens of milliseconds, so what was right once is remembered: as an HMAC
// under a key that dies with the process, of the name, the password and the stored
// hash. When the stored hash changes, nothing remembered fits it any more.
//
// A refusal costs one hash whether the name is known, has a password, or neither. If
// a [Hook] stands behind it in the Chain, the time that its answer takes tells which
// of the two knows a name.
type Password struct {
	o      PasswordOptions
	derive func(password, salt []byte, time, memory uint32, threads uint8, n uint32) []byte
	turns  chan struct{} // holds a token for each hash that is being computed
	queue  chan struct{} // and for each that waits for it

	key      [sha256.Size]byte
	mu       sync.Mutex // guards verified
	verified *recent[[sha256.Size]byte, time.Time]
}

// NewPassword makes a Password method.
func NewPassword(o PasswordOptions) *Password {
	if o.AtOnce <= 0 {
		o.AtOnce = max(runtime.GOMAXPROCS(0)/2, 1)
	}
	if o.Wait <= 0 {
		o.Wait = 5 * time.Second
	}
	if o.CacheFor <= 0 {
		o.CacheFor = time.Hour
	}
	m := &Password{
		o: o, derive: argon2.IDKey,
		turns: make(chan struct{}, o.AtOnce), queue: make(chan struct{}, hashersWaiting),
		verified: newRecent[[sha256.Size]byte, time.Time](verifiedMax),
	}
	rand.Read(m.key[:])
	return m
}

// Name implements [Method].
func (*Password) Name() string { return "password" }

func (m *Password) judge(a *attempt) answer {
	if !a.Connect.HasUser || !a.Connect.HasPassword {
		return answer{}
	}
	user, password := a.Connect.User, a.Connect.Password
	if n := a.guess(user, password); n != nil {
		return answer{no: n}
	}
	p, secret := m.find(a, user)
	wrong := &no{code: mqtt.BadUserNameOrPassword, identity: user, guess: true}
	if secret.Password == "" {
		wrong.why = fmt.Sprintf("no user and no device %q has a password", shorten(user))
		wrong.hint = command("fairlead user add %s --password-stdin", user)
		return answer{passed: wrong, equalize: func() *no { return m.waste(user, password) }}
	}
	ok, n := m.verify(user, password, secret.Password, a.now)
	if n != nil {
		return answer{no: n}
	}
	if !ok {
		wrong.why = fmt.Sprintf("wrong password for %q", shorten(user))
		return answer{no: wrong}
	}
	return answer{proof: p}
}

// find returns whose password it would be: a user's, or else a device's.
func (m *Password) find(a *attempt, name string) (*proof, Secret) {
	dir := a.chain.o.Directory
	p := &proof{method: m.Name()}
	if u, ok := dir.User(name); ok && u.Password != "" {
		p.user = name
		p.holds = holdsSecret(u.Secret, func() (Secret, bool) { u, ok := dir.User(name); return u.Secret, ok })
		return p, u.Secret
	}
	d, ok := dir.Device(name)
	if !ok {
		return nil, Secret{}
	}
	p.device = name
	p.holds = holdsSecret(d.Secret, func() (Secret, bool) { d, ok := dir.Device(name); return d.Secret, ok })
	return p, d.Secret
}

// verify holds a password against the stored hash. The no is there if that could not
// be done.
func (m *Password) verify(name string, password []byte, stored string, now time.Time) (bool, *no) {
	key := m.remembered(name, password, stored)
	if m.isVerified(key, now) {
		return true, nil
	}
	h, err := parsePHC(stored)
	if err != nil {
		return false, &no{code: mqtt.NotAuthorized, identity: name, why: fmt.Sprintf("%q: %v", shorten(name), err)}
	}
	if h.fast {
		if h.equal(h.sha256(password)) {
			return true, nil
		}
		return false, m.waste(name, password) // or the quick no would tell that there is such a name
	}
	hash, n := m.hash(name, password, h)
	if n != nil || !h.equal(hash) {
		return false, n
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.verified.put(key, now.Add(m.o.CacheFor))
	return true, nil
}

func (m *Password) remembered(name string, password []byte, stored string) [sha256.Size]byte {
	h := hmac.New(sha256.New, m.key[:])
	writeParts(h, []byte(name), password, []byte(stored))
	return [sha256.Size]byte(h.Sum(nil))
}

func (m *Password) isVerified(key [sha256.Size]byte, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	until, ok := m.verified.get(key)
	return ok && now.Before(until)
}

// waste computes a hash for nothing, so that this no costs what another would have.
func (m *Password) waste(name string, password []byte) *no {
	_, n := m.hash(name, password, &phc{memory: argonMemory, time: argonTime, threads: argonThreads, salt: m.key[:saltBytes], hash: m.key[:]})
	return n
}

// hash waits for its turn and computes the hash of a password.
func (m *Password) hash(name string, password []byte, h *phc) ([]byte, *no) {
	select {
	case m.queue <- struct{}{}:
		defer func() { <-m.queue }()
	default:
		return nil, &no{code: mqtt.ServerBusy, identity: name, why: fmt.Sprintf("%d passwords wait to be hashed, as many as may", hashersWaiting)}
	}
	timeout := time.NewTimer(m.o.Wait)
	defer timeout.Stop()
	select {
	case m.turns <- struct{}{}:
		defer func() { <-m.turns }()
	case <-timeout.C:
		return nil, &no{code: mqtt.ServerBusy, identity: name, why: fmt.Sprintf("the password's turn to be hashed did not come within %v", m.o.Wait)}
	}
	return m.derive(password, h.salt, h.time, h.memory, h.threads, uint32(len(h.hash))), nil
}
