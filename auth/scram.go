package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/xdg-go/scram"

	"fairlead/mqtt"
)

// The Authentication Methods of SCRAM: RFC 7677, and with channel binding to the TLS
// connection (tls-exporter, RFC 9266).
const (
	scramMethod = "SCRAM-SHA-256"
	scramPlus   = "SCRAM-SHA-256-PLUS"
)

// scramIterations is how often a new password is hashed, by the client and when the
// user is added. RFC 7677 asks for at least 4096; each 10,000 cost a small
// microcontroller about a second.
const scramIterations = 15_000

// scramMessageMax is the longest message of an exchange, in bytes.
const scramMessageMax = 4096

// SCRAMKeys are what is kept of a password for SCRAM-SHA-256 (RFC 5802). They let the
// broker verify, and prove itself, but not log in.
type SCRAMKeys struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// DeriveSCRAM makes the keys of a password, with a random salt. The error says that the
// name or the password has characters that SCRAM does not allow (SASLprep, RFC 4013).
func DeriveSCRAM(name, password string) (*SCRAMKeys, error) {
	c, err := scram.SHA256.NewClient(name, password, "")
	if err != nil {
		return nil, fmt.Errorf("SCRAM keys of %q: %w", name, err)
	}
	k, err := c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(randomBytes(saltBytes)), Iters: scramIterations})
	if err != nil {
		return nil, fmt.Errorf("SCRAM keys of %q: %w", name, err)
	}
	return &SCRAMKeys{Salt: []byte(k.Salt), Iterations: k.Iters, StoredKey: k.StoredKey, ServerKey: k.ServerKey}, nil
}

// SCRAM accepts users and devices of the registry by SCRAM-SHA-256 in MQTT 5's enhanced
// authentication (4.12): the password never leaves the client, and the client knows
// afterwards that the broker had its keys.
type SCRAM struct {
	decoy []byte
}

// NewSCRAM makes a SCRAM method. Names that are unknown are given a salt too, made of the
// name and decoy: 32 random bytes that stay the same, or a restart would show which salts
// are real. nil: random ones for this process.
func NewSCRAM(decoy []byte) *SCRAM {
	if len(decoy) == 0 {
		decoy = make([]byte, sha256.Size)
		rand.Read(decoy)
	}
	return &SCRAM{decoy: decoy}
}

// Name implements [Method].
func (*SCRAM) Name() string { return "scram" }

// judge passes: a CONNECT with an Authentication Method is an exchange.
func (*SCRAM) judge(*attempt) answer { return answer{} }

func (m *SCRAM) converse(method string, a *attempt) conversation {
	t := &scramTalk{method: m, attempt: a}
	server, err := scram.SHA256.NewServer(t.lookup)
	if err != nil {
		return nil
	}
	switch method {
	case scramMethod:
		t.talk = server.NewConversation()
	case scramPlus:
		if a.Info.TLS == nil {
			return nil
		}
		binding, err := scram.NewTLSExporterBinding(a.Info.TLS)
		if err != nil {
			return nil
		}
		t.talk = server.NewConversationWithChannelBindingRequired(binding)
	default:
		return nil
	}
	return t
}

// scramTalk is one exchange: client-first, server-first, client-final, server-final.
type scramTalk struct {
	method  *SCRAM
	attempt *attempt
	talk    *scram.ServerConversation
	proof   *proof // of whoever is claimed; nil: there is nobody
}

func (t *scramTalk) step(data []byte) ([]byte, *proof, *no) {
	wrong := &no{code: mqtt.NotAuthorized, identity: t.talk.Username()}
	if len(data) == 0 || len(data) > scramMessageMax {
		wrong.why = fmt.Sprintf("SCRAM message of %d bytes: expected 1 to %d", len(data), scramMessageMax)
		return nil, nil, wrong
	}
	final := t.talk.Username() != ""
	if final {
		if n := t.attempt.guess(t.talk.Username(), data); n != nil {
			return nil, nil, n
		}
	}
	reply, err := t.talk.Step(string(data))
	wrong.identity = t.talk.Username()
	switch {
	case final:
		return t.final(reply, err, wrong)
	case err != nil:
		wrong.why = fmt.Sprintf("first SCRAM message: %v", err)
		return nil, nil, wrong
	case t.talk.Username() == "":
		wrong.why = "first SCRAM message: no user name"
		return nil, nil, wrong
	case t.talk.AuthzID() != "" && t.talk.AuthzID() != t.talk.Username():
		wrong.why = fmt.Sprintf("first SCRAM message: %q wants to act as %q", shorten(t.talk.Username()), shorten(t.talk.AuthzID()))
		return nil, nil, wrong
	}
	return []byte(reply), nil, nil
}

func (t *scramTalk) final(reply string, err error, wrong *no) ([]byte, *proof, *no) {
	if err == nil && t.talk.Valid() && t.proof != nil {
		return []byte(reply), t.proof, nil
	}
	wrong.code, wrong.guess = mqtt.BadUserNameOrPassword, true
	wrong.why = "SCRAM: the client does not have the password"
	if t.proof == nil {
		wrong.why = fmt.Sprintf("no user and no device %q has SCRAM keys", shorten(wrong.identity))
		wrong.hint = command("fairlead user add %s --password-stdin", wrong.identity)
	}
	return nil, nil, wrong
}

// lookup gives the library the keys of a name: somebody's, or a decoy's that nobody has
// the password of.
func (t *scramTalk) lookup(name string) (scram.StoredCredentials, error) {
	if name == "" || len(name) > nameMax {
		return scram.StoredCredentials{}, errors.New("no name that could be known")
	}
	p, keys := t.find(name)
	if keys == nil {
		keys = t.method.decoyKeys(name)
	}
	t.proof = p
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(keys.Salt), Iters: keys.Iterations},
		StoredKey:  keys.StoredKey, ServerKey: keys.ServerKey,
	}, nil
}

// find returns whose keys they would be: a user's, or else a device's.
func (t *scramTalk) find(name string) (*proof, *SCRAMKeys) {
	dir := t.attempt.chain.o.Directory
	if u, ok := dir.User(name); ok && u.SCRAM.usable() {
		return &proof{method: t.method.Name(), user: name, holds: holdsSecret(u.Secret, func() (Secret, bool) {
			u, ok := dir.User(name)
			return u.Secret, ok
		})}, u.SCRAM
	}
	if d, ok := dir.Device(name); ok && d.SCRAM.usable() {
		return &proof{method: t.method.Name(), device: name, holds: holdsSecret(d.Secret, func() (Secret, bool) {
			d, ok := dir.Device(name)
			return d.Secret, ok
		})}, d.SCRAM
	}
	return nil, nil
}

// usable reports whether there are keys that a client can be held against.
func (k *SCRAMKeys) usable() bool {
	return k != nil && len(k.Salt) > 0 && k.Iterations > 0 && len(k.StoredKey) == sha256.Size && len(k.ServerKey) == sha256.Size
}

// decoyKeys are the keys of a name that has none: always the same, as real ones are.
func (m *SCRAM) decoyKeys(name string) *SCRAMKeys {
	part := func(what string) []byte {
		h := hmac.New(sha256.New, m.decoy)
		writeParts(h, []byte(what), []byte(name))
		return h.Sum(nil)
	}
	return &SCRAMKeys{
		Salt: part("salt")[:saltBytes], Iterations: scramIterations,
		StoredKey: part("stored key"), ServerKey: part("server key"),
	}
}
