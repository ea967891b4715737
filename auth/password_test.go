package auth

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/argon2"

	"fairlead/mqtt"
)

// counted is a Password method whose hashes cost nothing and are counted.
type counted struct {
	*Password
	mu     sync.Mutex
	hashes int
}

func (c *counted) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.hashes
	c.hashes = 0
	return n
}

func cheapHash(password, salt []byte, time, memory uint32, threads uint8, n uint32) []byte {
	s := sha256.Sum256(fmt.Appendf(nil, "%q %q %d %d %d", password, salt, time, memory, threads))
	return s[:n]
}

func countedPassword(o PasswordOptions) *counted {
	c := &counted{Password: NewPassword(o)}
	c.derive = func(password, salt []byte, time, memory uint32, threads uint8, n uint32) []byte {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hashes++
		return cheapHash(password, salt, time, memory, threads, n)
	}
	return c
}

func cheapPassword() *Password { return countedPassword(PasswordOptions{}).Password }

// cheap is the PHC string of a password under cheapHash.
func cheap(password string) string {
	h := phc{memory: argonMemory, time: argonTime, threads: argonThreads, salt: randomBytes(saltBytes)}
	h.hash = cheapHash([]byte(password), h.salt, h.time, h.memory, h.threads, hashBytes)
	return h.String()
}

func TestPassword(t *testing.T) {
	b := newBench(t, NewPassword(PasswordOptions{})) // with real hashes, this once
	b.reg.user("ann", HashPassword("correct horse"), func(u *User) { u.Groups = []string{"staff"} })
	id := b.accept(by(faraway, "laptop", "ann", "correct horse"))
	if id.User != "ann" || id.Device != "" || id.Method != "password" || !slices.Equal(id.Groups, []string{"staff"}) {
		t.Errorf("accepted %+v", id.Principal)
	}
	b.refuse(by(faraway, "laptop", "ann", "battery staple"), mqtt.BadUserNameOrPassword)
}

func TestDevicesMayHavePasswords(t *testing.T) {
	b := newBench(t, cheapPassword())
	b.reg.device("pump", func(d *Device) { d.Password = HashSecret("s3cret") })
	if id := b.accept(by(faraway, "pump:1", "pump", "s3cret")); id.Device != "pump" || id.User != "" {
		t.Errorf("accepted %+v", id.Principal)
	}
	b.refuse(by(faraway, "other", "pump", "s3cret"), mqtt.ClientIdentifierNotValid)
	b.refuse(by(faraway, "pump", "pump", "secret"), mqtt.BadUserNameOrPassword)
	b.reg.device("pump", func(d *Device) { d.Password, d.State = HashSecret("s3cret"), Suspended })
	b.refuse(by(faraway, "pump", "pump", "s3cret"), mqtt.NotAuthorized)
}

// A stranger must not learn by time which names exist. What takes time is counted.
func TestEachRefusalCostsOneHash(t *testing.T) {
	m := countedPassword(PasswordOptions{})
	b := newBench(t, m)
	b.reg.user("ann", cheap("right"))
	b.reg.user("disabled", cheap("right"), func(u *User) { u.Disabled = true })
	b.reg.user("keyless", "")
	b.reg.device("pump", func(d *Device) { d.Password = HashSecret("right") })
	b.reg.device("certified")
	for _, user := range []string{"ann", "disabled", "keyless", "pump", "certified", "unknown", "", "a/b", "\x00"} {
		for _, password := range []string{"wrong", ""} {
			b.refuse(by(faraway, "x", user, password), mqtt.BadUserNameOrPassword)
			if n := m.count(); n != 1 {
				t.Errorf("%q with %q: %d hashes, want 1", user, password, n)
			}
			b.clock.advance(10 * time.Minute)
		}
	}
}

func TestUnknownUserIsForTheNextMethod(t *testing.T) {
	m := countedPassword(PasswordOptions{})
	hook := yes(proof{method: "hook", user: "zoe", vouchedUser: true})
	b := newBench(t, m, hook)
	b.reg.user("ann", cheap("right"))
	if id := b.accept(by(faraway, "x", "zoe", "anything")); id.Method != "hook" || m.count() != 0 {
		t.Errorf("accepted %+v, want hook's and no hash", id.Principal)
	}
	b.refuse(by(faraway, "x", "ann", "wrong"), mqtt.BadUserNameOrPassword)
	if hook.asked != 1 {
		t.Errorf("the next method was asked %d times, want once: ann's password is here", hook.asked)
	}

	b = newBench(t, m, &says{name: "nobody's"})
	if r := b.refuse(by(here, "x", "zoe", "anything"), mqtt.BadUserNameOrPassword); r.Hint != "fairlead user add zoe --password-stdin" {
		t.Errorf("told %+v", r)
	}
}

func TestVerifiedPasswordsAreRemembered(t *testing.T) {
	m := countedPassword(PasswordOptions{CacheFor: time.Hour})
	b := newBench(t, m)
	b.reg.user("ann", cheap("right"))
	want := func(hashes int) {
		t.Helper()
		b.accept(by(faraway, "x", "ann", "right"))
		if n := m.count(); n != hashes {
			t.Errorf("%d hashes, want %d", n, hashes)
		}
	}
	want(1)
	want(0)
	b.clock.advance(time.Hour)
	want(1)
	want(0)
	b.refuse(by(faraway, "x", "ann", "wrong"), mqtt.BadUserNameOrPassword)
	b.refuse(by(faraway, "x", "ann", "wrong"), mqtt.BadUserNameOrPassword) // nothing wrong is remembered
	if n := m.count(); n != 2 {
		t.Errorf("two wrong passwords: %d hashes", n)
	}
	b.reg.user("ann", cheap("right")) // hashed anew
	want(1)
	b.reg.user("ann", cheap("changed"))
	b.refuse(by(faraway, "x", "ann", "right"), mqtt.BadUserNameOrPassword)
	b.reg.user("ann", "")
	b.refuse(by(faraway, "x", "ann", "changed"), mqtt.BadUserNameOrPassword)
	b.reg.user("ann", "not a PHC string")
	b.refuse(by(faraway, "x", "ann", "right"), mqtt.NotAuthorized)
}

func TestRecentForgetsWhatWasNotUsed(t *testing.T) {
	r := newRecent[string, int](2)
	r.put("a", 1)
	r.put("b", 2)
	r.put("a", 3)
	r.get("b")
	r.put("c", 4)
	if _, ok := r.get("a"); ok || len(r.byKey) != 2 || r.order.Len() != 2 {
		t.Errorf("a is there, or there are %d", len(r.byKey))
	}
	r.remove("b")
	r.remove("b")
	if v, ok := r.get("c"); !ok || v != 4 || len(r.byKey) != 1 {
		t.Errorf("c = %d, %v", v, ok)
	}
}

func TestHashesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewPassword(PasswordOptions{AtOnce: 2, Wait: time.Second})
		free := make(chan struct{})
		m.derive = func(password, salt []byte, time, memory uint32, threads uint8, n uint32) []byte {
			<-free
			return cheapHash(password, salt, time, memory, threads, n)
		}
		b := newBench(t, m)
		b.reg.user("ann", cheap("right"))
		codes := make(chan mqtt.ReasonCode, 3)
		for _, source := range []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"} {
			go func() {
				_, v := b.Authenticate(by(source, "x", "ann", "right"))
				codes <- v.Code
			}()
		}
		if got := <-codes; got != mqtt.ServerBusy { // after a second
			t.Errorf("the third: %v, want %v", got, mqtt.ServerBusy)
		}
		if n := b.Unavailable.Load(); n != 1 {
			t.Errorf("Unavailable = %d, want 1", n)
		}
		close(free)
		for range 2 {
			if got := <-codes; got != mqtt.Success {
				t.Errorf("one of the first two: %v", got)
			}
		}
		// It is nobody's fault: nothing counts against source or identity.
		if len(b.brake.sources.byKey)+len(b.brake.identities.byKey) != 0 {
			t.Errorf("%d sources and %d identities are held", len(b.brake.sources.byKey), len(b.brake.identities.byKey))
		}
	})
}

func TestHashersQueueIsLimited(t *testing.T) {
	m := cheapPassword()
	for range hashersWaiting {
		m.queue <- struct{}{}
	}
	b := newBench(t, m)
	b.reg.user("ann", cheap("right"))
	b.refuse(by(faraway, "x", "ann", "right"), mqtt.ServerBusy)
	b.refuse(by(faraway, "x", "unknown", "right"), mqtt.ServerBusy)
}

func TestPHC(t *testing.T) {
	// From the tests of the reference implementation, phc-winner-argon2.
	reference := "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	h, err := parsePHC(reference)
	if err != nil {
		t.Fatal(err)
	}
	if !h.equal(argon2.IDKey([]byte("password"), h.salt, h.time, h.memory, h.threads, uint32(len(h.hash)))) || h.String() != reference {
		t.Errorf("the reference hash is not verified, or written as %s", h)
	}
	h, err = parsePHC(HashSecret("s"))
	if err != nil || !h.equal(h.sha256([]byte("s"))) || h.equal(h.sha256([]byte("t"))) {
		t.Errorf("HashSecret: %v, %v", h, err)
	}
	if a, b := HashSecret("s"), HashSecret("s"); a == b {
		t.Error("two hashes of one secret are equal: no salt")
	}
	salt, hash := "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for _, s := range []string{
		"", "plain", "$", "$argon2id$v=19$m=65536,t=2,p=1$" + salt, "$argon2i$v=19$m=65536,t=2,p=1$" + salt + "$" + hash,
		"$argon2id$v=16$m=65536,t=2,p=1$" + salt + "$" + hash, "$argon2id$v=19$m=4194304,t=2,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=65536,t=0,p=1$" + salt + "$" + hash, "$argon2id$v=19$m=65536,t=1000,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=65536,t=2,p=256$" + salt + "$" + hash, "$argon2id$v=19$m=8,t=2,p=2$" + salt + "$" + hash,
		"$argon2id$v=19$m=065536,t=2,p=1$" + salt + "$" + hash, "$argon2id$v=19$t=2,m=65536,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=65536,t=2,p=1$" + salt + "==$" + hash, "$argon2id$v=19$m=65536,t=2,p=1$c2FsdA$" + hash,
		"$argon2id$v=19$m=65536,t=2,p=1$" + salt + "$c2hvcnQ", "$sha256$" + salt + "$c29tZXRoaW5nIHNob3J0", "$sha256$$" + hash,
		"$sha256$" + salt + "$" + hash + "$",
	} {
		if h, err := parsePHC(s); err == nil || strings.Contains(err.Error(), hash) {
			t.Errorf("parsePHC(%q) = %v, %v, want an error without the hash", s, h, err)
		}
	}
}

func FuzzPHC(f *testing.F) {
	f.Add(HashPassword("x"))
	f.Add(HashSecret("x"))
	f.Add("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err != nil {
			return
		}
		if got := h.String(); got != s {
			t.Errorf("parsed %q is written as %q", s, got)
		}
		if h.memory > argonMemoryMax || h.time > argonTimeMax || h.threads > argonThreadsMax {
			t.Errorf("%q would cost too much", s)
		}
	})
}

// A password that was right before is verified without its hash.
func BenchmarkRememberedPassword(b *testing.B) {
	m := cheapPassword()
	reg := newRegistry()
	reg.user("ann", cheap("right"))
	c, err := New(Options{Directory: reg, Methods: []Method{m}})
	if err != nil {
		b.Fatal(err)
	}
	who := by(faraway, "x", "ann", "right")
	b.ReportAllocs()
	for b.Loop() {
		if p, v := c.Authenticate(who); p == nil {
			b.Fatal(v)
		}
	}
}
