package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"fairlead/mqtt"
)

// tokenPrefix begins every token, so that people and secret scanners know one.
const tokenPrefix = "fl_"

// NewToken makes a random token for a user or a device: what its owner keeps, and what
// the registry does. It has 130 random bits, so its hash is quick.
func NewToken() (text string, t Token) {
	id, secret := strings.ToLower(rand.Text()[:12]), rand.Text()
	return tokenPrefix + id + "_" + secret, Token{ID: id, Hash: HashSecret(secret)}
}

// cutToken parts "fl_id_secret"; ok reports whether a text has the form of a token.
func cutToken(text string) (id, secret string, ok bool) {
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(rest) > nameMax {
		return "", "", false
	}
	id, secret, ok = strings.Cut(rest, "_")
	return id, secret, ok && id != "" && secret != ""
}

// Tokens accepts the tokens of users and devices as the password of a CONNECT,
// whatever its user name.
type Tokens struct{}

// Name implements [Method].
func (Tokens) Name() string { return "token" }

func (m Tokens) judge(a *attempt) answer {
	id, secret, ok := cutToken(string(a.Connect.Password))
	if !ok {
		return answer{}
	}
	if n := a.guess("", a.Connect.Password); n != nil {
		return answer{no: n}
	}
	wrong := &no{code: mqtt.BadUserNameOrPassword, identity: "token " + id, guess: true}
	dir := a.chain.o.Directory
	t, known := dir.Token(id)
	if !known {
		wrong.why = fmt.Sprintf("there is no token %q", id)
		return answer{no: wrong}
	}
	h, err := parsePHC(t.Hash)
	if err != nil || !h.fast {
		wrong.why = fmt.Sprintf("token %q: the registry has no hash of it that can be used", id)
		return answer{no: wrong}
	}
	if !h.equal(h.sha256([]byte(secret))) {
		wrong.why = fmt.Sprintf("token %q: wrong secret", id)
		return answer{no: wrong}
	}
	if !t.Expires.IsZero() && !a.now.Before(t.Expires) {
		return answer{no: &no{code: mqtt.NotAuthorized, identity: "token " + id, why: fmt.Sprintf("token %q has expired", id)}}
	}
	if t.Device == "" && t.User == "" {
		return answer{no: &no{code: mqtt.NotAuthorized, identity: "token " + id, why: fmt.Sprintf("token %q stands for nobody", id)}}
	}
	return answer{proof: &proof{method: m.Name(), device: t.Device, user: t.User, expires: t.Expires, holds: func() error {
		if now, ok := dir.Token(id); !ok || now.Hash != t.Hash {
			return errWithdrawn
		}
		return nil
	}}}
}

var errWithdrawn = errors.New("the token has been withdrawn")
