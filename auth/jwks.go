package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// KeysOptions say where the public keys of a token issuer come from: a JSON Web Key
// Set (RFC 7517), in a file or at a URL.
type KeysOptions struct {
	File string
	URL  string      // https, or http on loopback
	TLS  *tls.Config // for https; nil: the system's authorities
	// Every is how often the keys are read again; 0: 15 minutes for a URL, 5 seconds
	// for a file.
	Every   time.Duration
	Timeout time.Duration // of one request; 0: 10 seconds
	// Failed hears why keys could not be read; those read before stay in force. Nil:
	// nobody does.
	Failed func(error)
	Now    func() time.Time // nil: time.Now
}

const (
	keySetMax = 1 << 20 // bytes of a JWKS; a longer one is not read
	keysMax   = 256     // keys in it; the same
	// askAgain is how often, at most, a token with an unknown key id makes the keys be
	// read again: strangers make up ids.
	askAgain  = 30 * time.Second
	rsaMin    = 2048 // bits; shorter keys are left out
	rsaMax    = 16384
	retryFrom = 5 * time.Second // after a failure, doubled up to Every
)

// Keys are the public keys of a token issuer, kept up to date by [Keys.Run].
//
// A library that does this (keyfunc) was looked at: it has no limit for the size of a
// set, no clock that a test could turn, and brings three modules for the hundred lines
// of parseKeySet.
type Keys struct {
	o      KeysOptions
	remote *remote // nil for a file

	reading sync.Mutex // held while the keys are read, by one at a time
	asked   time.Time  // guarded by reading: when an unknown key id last made them be read

	mu  sync.RWMutex // guards set
	set []publicKey
}

// publicKey is one key of a set.
type publicKey struct {
	id        string // kid; empty: it has none
	algorithm string // the only one that it is for; empty: any of its kind
	key       crypto.PublicKey
}

// NewKeys checks the options. The keys are read by Run, or with the first token.
func NewKeys(o KeysOptions) (*Keys, error) {
	if (o.File == "") == (o.URL == "") {
		return nil, errors.New("JWKS: expected either a file or a URL")
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	k := &Keys{o: o}
	if o.URL != "" {
		var err error
		if k.remote, err = newRemote(o.URL, o.TLS, o.Timeout); err != nil {
			return nil, fmt.Errorf("JWKS: %w", err)
		}
	}
	if k.o.Every <= 0 {
		k.o.Every = 5 * time.Second
		if o.URL != "" {
			k.o.Every = 15 * time.Minute
		}
	}
	return k, nil
}

// Run reads the keys now and again and again until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	retry := retryFrom
	for {
		wait := k.o.Every
		if err := k.Refresh(ctx); err != nil {
			wait = min(retry, k.o.Every)
			retry *= 2
		} else {
			retry = retryFrom
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// Refresh reads the keys now. If that fails, those that are in force stay.
func (k *Keys) Refresh(ctx context.Context) error {
	k.reading.Lock()
	defer k.reading.Unlock()
	return k.refreshLocked(ctx)
}

// refreshLocked is Refresh under the lock reading.
func (k *Keys) refreshLocked(ctx context.Context) error {
	text, err := k.read(ctx)
	var set []publicKey
	if err == nil {
		set, err = parseKeySet(text)
	}
	if err != nil {
		err = fmt.Errorf("read JWKS %s%s: %w", k.o.File, k.o.URL, err)
		k.o.Failed(err)
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set = set
	return nil
}

func (k *Keys) read(ctx context.Context) ([]byte, error) {
	if k.remote == nil {
		return readLimited(k.o.File, keySetMax)
	}
	ctx, cancel := context.WithTimeout(ctx, k.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.remote.url.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	body, _, err := k.remote.do(req, keySetMax)
	return body, err
}

func readLimited(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	return text, err
}

// find returns the keys that may have signed a token with this key id and algorithm.
// An id that is not known makes the keys be read again, now and then.
func (k *Keys) find(id, algorithm string) []crypto.PublicKey {
	if found := k.among(id, algorithm); found != nil {
		return found
	}
	k.reading.Lock() // whoever waits here finds the keys read when his turn comes
	defer k.reading.Unlock()
	if found := k.among(id, algorithm); found != nil {
		return found
	}
	if now := k.o.Now(); k.asked.IsZero() || now.Sub(k.asked) >= askAgain {
		k.asked = now
		if k.refreshLocked(context.Background()) == nil { // Failed has heard of an error
			return k.among(id, algorithm)
		}
	}
	return nil
}

// empty reports whether no keys have been read so far.
func (k *Keys) empty() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.set == nil
}

func (k *Keys) among(id, algorithm string) []crypto.PublicKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var found []crypto.PublicKey
	for _, key := range k.set {
		if id != "" && key.id != id || key.algorithm != "" && key.algorithm != algorithm || !signs(key.key, algorithm) {
			continue
		}
		if found = append(found, key.key); len(found) == triedMax {
			break
		}
	}
	return found
}

// triedMax is how many keys are tried for a token that names none.
const triedMax = 8

// signs reports whether a key is of the kind that an algorithm needs.
func signs(key crypto.PublicKey, algorithm string) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, algorithm)
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	case *ecdsa.PublicKey:
		return algorithm == ecAlgorithms[key.Curve]
	}
	return false
}

var ecAlgorithms = map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512"}

var ecCurves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// jwk is a key as RFC 7517 and RFC 7518 write it.
type jwk struct {
	Type      string `json:"kty"`
	Use       string `json:"use"`
	ID        string `json:"kid"`
	Algorithm string `json:"alg"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y"`
	N         string `json:"n"`
	E         string `json:"e"`
}

// parseKeySet reads a JWKS. Keys that are not for signatures or of a kind that we do
// not know are left out, as RFC 7517 section 5 asks; a set without any other key is an
// error, so that a broken one does not replace a good one.
func parseKeySet(text []byte) ([]publicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > keysMax {
		return nil, fmt.Errorf("%d keys: expected at most %d", len(set.Keys), keysMax)
	}
	var keys []publicKey
	var problem error
	for i, raw := range set.Keys {
		var j jwk
		err := json.Unmarshal(raw, &j)
		if err != nil || j.Use != "" && j.Use != "sig" {
			problem = errors.Join(problem, err)
			continue
		}
		key, err := j.public()
		if err != nil {
			problem = errors.Join(problem, fmt.Errorf("key %d: %w", i, err))
			continue
		}
		keys = append(keys, publicKey{j.ID, j.Algorithm, key})
	}
	if keys == nil {
		return nil, errors.Join(errors.New("no key that can be used for signatures"), problem)
	}
	return keys, nil
}

func (j *jwk) public() (crypto.PublicKey, error) {
	switch j.Type {
	case "RSA":
		return j.rsa()
	case "EC":
		return j.ecdsa()
	case "OKP":
		x, err := j.bytes("x", j.X)
		if err != nil || j.Curve != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("OKP key on %q: expected Ed25519 with 32 bytes", j.Curve)
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("key type %q: expected RSA, EC or OKP", j.Type)
}

func (j *jwk) rsa() (crypto.PublicKey, error) {
	n, err := j.bytes("n", j.N)
	if err != nil {
		return nil, err
	}
	e, err := j.bytes("e", j.E)
	if err != nil {
		return nil, err
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if bits := key.N.BitLen(); bits < rsaMin || bits > rsaMax {
		return nil, fmt.Errorf("RSA key of %d bits: expected %d to %d", bits, rsaMin, rsaMax)
	}
	if len(e) > 4 || key.E < 3 || key.E%2 == 0 {
		return nil, errors.New("RSA key with a bad exponent")
	}
	return key, nil
}

func (j *jwk) ecdsa() (crypto.PublicKey, error) {
	curve := ecCurves[j.Curve]
	if curve == nil {
		return nil, fmt.Errorf("EC key on %q: expected P-256, P-384 or P-521", j.Curve)
	}
	x, err := j.bytes("x", j.X)
	if err != nil {
		return nil, err
	}
	y, err := j.bytes("y", j.Y)
	if err != nil {
		return nil, err
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size {
		return nil, fmt.Errorf("EC key on %s: expected x and y of %d bytes", j.Curve, size)
	}
	return ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
}

func (j *jwk) bytes(what, text string) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%s: expected base64url", what)
	}
	return b, nil
}
