package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The parameters of new password hashes: OWASP's first choice for argon2id, about
// 40 ms on one core.
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2         // passes
	argonThreads = 1
	saltBytes    = 16
	hashBytes    = 32
)

// What a stored hash may ask for at most: one of another system may be imported, and
// must not become a way to stop the broker.
const (
	argonMemoryMax  = 256 * 1024 // KiB
	argonTimeMax    = 16
	argonThreadsMax = 16
	saltBytesMin    = 8
	saltBytesMax    = 64
	hashBytesMin    = 16
	hashBytesMax    = 64
)

// HashPassword returns a PHC string with which a password that a person has chosen can
// be verified and not be found: argon2id with a random salt.
func HashPassword(password string) string {
	h := phc{memory: argonMemory, time: argonTime, threads: argonThreads, salt: randomBytes(saltBytes)}
	h.hash = argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, hashBytes)
	return h.String()
}

// HashSecret is HashPassword for secrets of at least 128 random bits, which need no
// slow hash because nobody can try that many: "$sha256$salt$hash". Never use it for a
// password that a person has chosen.
func HashSecret(secret string) string {
	h := phc{fast: true, salt: randomBytes(saltBytes)}
	h.hash = h.sha256([]byte(secret))
	return h.String()
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// phc is a parsed PHC string (github.com/P-H-C/phc-string-format).
type phc struct {
	fast         bool // SHA-256; the next three are 0
	memory, time uint32
	threads      uint8
	salt, hash   []byte
}

var b64 = base64.RawStdEncoding.Strict()

func (h *phc) String() string {
	salt, hash := b64.EncodeToString(h.salt), b64.EncodeToString(h.hash)
	if h.fast {
		return "$sha256$" + salt + "$" + hash
	}
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.threads, salt, hash)
}

// parsePHC reads a stored hash. The error does not repeat it.
func parsePHC(s string) (*phc, error) {
	fields := strings.Split(s, "$")
	if len(fields) < 4 || fields[0] != "" || strings.ContainsAny(s, "\r\n") { // base64 would skip line ends
		return nil, errors.New("stored password: expected $argon2id$… or $sha256$…")
	}
	h := new(phc)
	switch {
	case fields[1] == "sha256" && len(fields) == 4:
		h.fast = true
	case fields[1] == "argon2id" && len(fields) == 6:
		if fields[2] != "v="+strconv.Itoa(argon2.Version) {
			return nil, fmt.Errorf("stored password: argon2id of another version than %d", argon2.Version)
		}
		if err := h.parameters(fields[3]); err != nil {
			return nil, fmt.Errorf("stored password: %w", err)
		}
	default:
		return nil, errors.New("stored password: expected $argon2id$ with five fields or $sha256$ with two")
	}
	if err := h.bytes(fields[len(fields)-2], fields[len(fields)-1]); err != nil {
		return nil, fmt.Errorf("stored password: %w", err)
	}
	return h, nil
}

// parameters reads "m=19456,t=2,p=1".
func (h *phc) parameters(s string) error {
	fields := strings.Split(s, ",")
	if len(fields) != 3 {
		return errors.New("argon2id: expected m=,t=,p=")
	}
	var v [3]uint32
	for i, p := range []struct {
		name     string
		min, max uint64
	}{{"m=", 8, argonMemoryMax}, {"t=", 1, argonTimeMax}, {"p=", 1, argonThreadsMax}} {
		digits, ok := strings.CutPrefix(fields[i], p.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n < p.min || n > p.max || digits != strconv.FormatUint(n, 10) {
			return fmt.Errorf("argon2id: expected %s%d to %d", p.name, p.min, p.max)
		}
		v[i] = uint32(n)
	}
	h.memory, h.time, h.threads = v[0], v[1], uint8(v[2])
	if h.memory < 8*uint32(h.threads) {
		return errors.New("argon2id: expected m of at least 8 times p")
	}
	return nil
}

func (h *phc) bytes(salt, hash string) (err error) {
	if h.salt, err = b64.DecodeString(salt); err != nil || len(h.salt) < saltBytesMin || len(h.salt) > saltBytesMax {
		return fmt.Errorf("salt: expected %d to %d bytes in base64", saltBytesMin, saltBytesMax)
	}
	most, least := hashBytesMax, hashBytesMin
	if h.fast {
		most, least = sha256.Size, sha256.Size
	}
	if h.hash, err = b64.DecodeString(hash); err != nil || len(h.hash) < least || len(h.hash) > most {
		return fmt.Errorf("hash: expected %d to %d bytes in base64", least, most)
	}
	return nil
}

func (h *phc) sha256(secret []byte) []byte {
	s := sha256.Sum256(append(h.salt[:len(h.salt):len(h.salt)], secret...))
	return s[:]
}

// equal compares a computed hash with the stored one, in constant time.
func (h *phc) equal(hash []byte) bool { return subtle.ConstantTimeCompare(hash, h.hash) == 1 }
