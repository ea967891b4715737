package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// String returns 64 lower-case hex digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes what String does.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads 64 lower-case hex digits and nothing else.
func (h *Hash) UnmarshalText(text []byte) error {
	var got Hash
	if len(text) != hex.EncodedLen(len(got)) {
		return fmt.Errorf("a hash of %d characters, expected %d", len(text), hex.EncodedLen(len(got)))
	}
	if _, err := hex.Decode(got[:], text); err != nil || !bytes.Equal(hex.AppendEncode(nil, got[:]), text) {
		return fmt.Errorf("hash %q: expected lower-case hex digits", text)
	}
	*h = got
	return nil
}

// line is an Entry as it is written, without its hash. The order of the fields is
// the order in the file.
type line struct {
	Number uint64          `json:"n"`
	Time   time.Time       `json:"time"`
	Kind   Kind            `json:"kind"`
	Actor  Actor           `json:"actor"`
	Source string          `json:"source,omitempty"`
	Action string          `json:"action"`
	Object string          `json:"object,omitempty"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	Reason string          `json:"reason,omitempty"`
	Count  uint64          `json:"count,omitempty"`
	Since  time.Time       `json:"since,omitzero"`
	Prev   Hash            `json:"prev"`
}

const (
	hashField = `,"hash":"`
	lineEnd   = `"}`
	hashTail  = len(hashField) + 2*sha256.Size + len(lineEnd) // what the hash adds at the end, with the brace
)

// toLine encodes Before and After, the only part that can fail.
func toLine(e Entry) (line, error) {
	l := line{
		Kind: e.Kind, Actor: e.Actor, Source: e.Source, Action: e.Action, Object: e.Object,
		Reason: e.Reason, Count: e.Count, Since: e.Since.UTC().Round(0),
	}
	if e.Since.IsZero() {
		l.Since = time.Time{}
	}
	var err error
	if l.Before, err = raw(e.Before); err != nil {
		return line{}, fmt.Errorf("audit %s: before: %w", e.Action, err)
	}
	if l.After, err = raw(e.After); err != nil {
		return line{}, fmt.Errorf("audit %s: after: %w", e.Action, err)
	}
	return l, nil
}

func raw(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// appendLine writes the entry with its hash and a line break.
func appendLine(dst []byte, l line) ([]byte, Hash, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return dst, Hash{}, err
	}
	body := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	h := Hash(sha256.Sum256(body))
	dst = append(dst, body[:len(body)-1]...)
	dst = append(dst, hashField...)
	dst = append(dst, h.String()...)
	return append(dst, lineEnd+"\n"...), h, nil
}

var errNoHash = errors.New(`the line does not end in ,"hash":"..."}`)

// parseLine reads a line without its line break, and checks its own hash. Fields
// that a later version may have added are passed over; the hash covers them.
func parseLine(text []byte) (Entry, error) {
	stated, computed, err := hashes(text)
	if err != nil {
		return Entry{}, err
	}
	if stated != computed {
		return Entry{}, fmt.Errorf("its hash is %s, expected %s", stated, computed)
	}
	var l line
	body := append(bytes.Clone(text[:len(text)-hashTail]), '}')
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&l); err != nil {
		return Entry{}, fmt.Errorf("not an entry: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) || l.Number == 0 {
		return Entry{}, errors.New("not an entry: expected one JSON object with a number")
	}
	return l.entry(stated), nil
}

// hashes returns the hash that a line states and the one that it should have.
func hashes(text []byte) (stated, computed Hash, err error) {
	at := len(text) - hashTail
	if at < 1 || string(text[at:at+len(hashField)]) != hashField || string(text[len(text)-len(lineEnd):]) != lineEnd {
		return Hash{}, Hash{}, errNoHash
	}
	if err := stated.UnmarshalText(text[at+len(hashField) : len(text)-len(lineEnd)]); err != nil {
		return Hash{}, Hash{}, err
	}
	sum := sha256.New()
	sum.Write(text[:at])
	sum.Write([]byte("}"))
	sum.Sum(computed[:0])
	return stated, computed, nil
}

func (l line) entry(h Hash) Entry {
	e := Entry{
		Number: l.Number, Time: l.Time, Kind: l.Kind, Actor: l.Actor, Source: l.Source, Action: l.Action,
		Object: l.Object, Reason: l.Reason, Count: l.Count, Since: l.Since, Prev: l.Prev, Hash: h,
	}
	if l.Before != nil {
		e.Before = l.Before
	}
	if l.After != nil {
		e.After = l.After
	}
	return e
}

// MarshalJSON writes an entry as the log has it, for commands and interfaces.
func (e Entry) MarshalJSON() ([]byte, error) {
	l, err := toLine(e)
	if err != nil {
		return nil, err
	}
	l.Number, l.Time, l.Prev = e.Number, e.Time.UTC(), e.Prev
	return json.Marshal(struct {
		line
		Hash Hash `json:"hash"`
	}{l, e.Hash})
}
