package auth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"fairlead/mqtt"
)

// jwtMethod is the Authentication Method under which a token can be shown by AUTH, and
// a new one before the old one ends.
const jwtMethod = "JWT"

// jwtMax is the longest token that is looked at, in bytes.
const jwtMax = 16 << 10

// JWTOptions say which tokens are accepted and what they mean.
type JWTOptions struct {
	Keys     *Keys
	Issuer   string   // iss; must be set
	Audience []string // one of them must be in aud; must be set
	// Algorithms are accepted; nil: all with a public key: RS, PS, ES with 256, 384 and
	// 512 bits, EdDSA. A shared secret (HS) never is, and neither is "none".
	Algorithms []string
	Leeway     time.Duration // between the issuer's clock and ours; 0: 30 seconds; negative: none
	Claims     Mapping
	// Unregistered accepts devices that the registry does not know.
	Unregistered bool
}

// JWT accepts JSON Web Tokens (RFC 7519) of one issuer: as the password of a CONNECT
// with any user name, or by enhanced authentication with the method "JWT". The
// connection ends when the token does.
type JWT struct{ o JWTOptions }

var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// NewJWT makes a JWT method. The error says which option is wrong.
func NewJWT(o JWTOptions) (*JWT, error) {
	switch {
	case o.Keys == nil:
		return nil, errors.New("jwt: no keys")
	case o.Issuer == "":
		return nil, errors.New("jwt: no issuer: expected what tokens have in iss")
	case len(o.Audience) == 0:
		return nil, errors.New("jwt: no audience: a token for another service would be accepted")
	case o.Claims.Device == "" && o.Claims.User == "":
		return nil, errors.New("jwt: expected a claim for the device's or the user's name")
	}
	if o.Algorithms == nil {
		o.Algorithms = asymmetric
	}
	for _, a := range o.Algorithms {
		if !slices.Contains(asymmetric, a) {
			return nil, fmt.Errorf("jwt: algorithm %q: expected some of %s", a, strings.Join(asymmetric, " "))
		}
	}
	if o.Leeway == 0 {
		o.Leeway = 30 * time.Second
	}
	o.Leeway = max(o.Leeway, 0)
	return &JWT{o: o}, nil
}

// Name implements [Method].
func (*JWT) Name() string { return "jwt" }

func (m *JWT) judge(a *attempt) answer {
	token := string(a.Connect.Password)
	if !m.mine(token) {
		return answer{}
	}
	p, n := m.verify(a, token)
	return answer{proof: p, no: n}
}

// mine reports whether a password has the form of a token of this issuer.
func (m *JWT) mine(token string) bool {
	if !strings.HasPrefix(token, "ey") || strings.Count(token, ".") != 2 || len(token) > jwtMax { // ey: {" in base64
		return false
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return false
	}
	var claims struct {
		Issuer any `json:"iss"`
	}
	return json.Unmarshal(text, &claims) == nil && claims.Issuer == m.o.Issuer
}

// verify holds a token against the keys and the rules.
func (m *JWT) verify(a *attempt, token string) (*proof, *no) {
	if n := a.guess("", []byte(token)); n != nil {
		return nil, n
	}
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(
		jwt.WithValidMethods(m.o.Algorithms), jwt.WithIssuer(m.o.Issuer), jwt.WithAudience(m.o.Audience...),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(m.o.Leeway), jwt.WithJSONNumber(),
		jwt.WithStrictDecoding(), jwt.WithTimeFunc(func() time.Time { return a.now }),
	)
	if _, err := parser.ParseWithClaims(token, claims, m.keys); err != nil {
		return nil, m.wrong(claims, err)
	}
	p, err := m.proof(claims)
	if err != nil {
		return nil, m.wrong(claims, fmt.Errorf("token: %w", err))
	}
	return p, nil
}

var (
	errNoKeys  = errors.New("no keys of the issuer could be read so far")
	errForeign = errors.New("none of the issuer's keys has this key id and algorithm")
)

// keys gives the library the keys that a token may be signed with.
func (m *JWT) keys(t *jwt.Token) (any, error) {
	id, _ := t.Header["kid"].(string)
	if _, critical := t.Header["crit"]; critical { // RFC 7515 section 4.1.11
		return nil, errors.New("the header demands extensions")
	}
	found := m.o.Keys.find(id, t.Method.Alg())
	if found == nil {
		if m.o.Keys.empty() {
			return nil, errNoKeys
		}
		return nil, errForeign
	}
	var set jwt.VerificationKeySet
	for _, k := range found {
		set.Keys = append(set.Keys, k)
	}
	return set, nil
}

// wrong is the refusal of a token. Only a signature can be guessed at.
func (m *JWT) wrong(claims jwt.MapClaims, err error) *no {
	n := &no{code: mqtt.BadUserNameOrPassword, why: err.Error(), guess: errors.Is(err, jwt.ErrTokenSignatureInvalid)}
	if errors.Is(err, errNoKeys) {
		n.code = mqtt.ServerUnavailable
	}
	for _, claim := range []string{m.o.Claims.Device, m.o.Claims.User} {
		if text, err := textClaim(claims, claim); err == nil && n.identity == "" {
			n.identity = text
		}
	}
	return n
}

// proof reads the claims of a token that has been verified.
func (m *JWT) proof(claims jwt.MapClaims) (*proof, error) {
	s, err := m.o.Claims.apply(claims)
	if err != nil {
		return nil, err
	}
	expires, err := claims.GetExpirationTime()
	if err != nil {
		return nil, err
	}
	if expires == nil || expires.Year() > 9999 {
		return nil, errors.New("exp: expected a time before the year 10000")
	}
	return &proof{
		method: m.Name(), device: s.device, user: s.user, groups: s.groups, attrs: s.attrs,
		expires: expires.Add(m.o.Leeway), vouchedUser: true, vouchedDevice: m.o.Unregistered,
	}, nil
}

func (m *JWT) converse(method string, a *attempt) conversation {
	if method != jwtMethod {
		return nil
	}
	return &jwtTalk{a}
}

// jwtTalk is an exchange of one step: the token. It is for all issuers of the Chain.
type jwtTalk struct{ attempt *attempt }

func (t *jwtTalk) step(data []byte) ([]byte, *proof, *no) {
	token := string(data)
	for _, m := range t.attempt.chain.o.Methods {
		if m, ok := m.(*JWT); ok && m.mine(token) {
			p, n := m.verify(t.attempt, token)
			return nil, p, n
		}
	}
	return nil, nil, &no{code: mqtt.BadUserNameOrPassword, why: "the authentication data is no token of an issuer that is known"}
}
