// Package audit keeps an append-only, hash-chained log of every administrative
// act and every refusal: who, what, from where, before and after, when. Begin with
// [Open]; [Verify] says whether a log is whole, [List] reads it.
//
// # The files
//
// A log is a directory of files named audit-N.jsonl, N being the number of the
// first entry in 20 digits. Each line is one [Entry] as JSON without line breaks.
// Entries are numbered from 1 without gaps, over all files.
//
// # The chain
//
// Each line ends in
//
//	,"prev":"P","hash":"H"}
//
// P is the hash of the entry before, and 64 zeros in the first entry. H is the
// SHA-256 of the line without its hash: of all bytes before ,"hash": followed by
// one closing brace, without the line break. Both are written as 64 lower-case hex
// digits. So a line can be checked with the tools of any system:
//
//	sed -n 1p FILE | sed 's/,"hash":"[0-9a-f]*"}$/}/' | tr -d '\n' | sha256sum
//
// The file named anchor holds number and hash of an entry that was durable when it
// was written, a second ago or less while the log grows. It shows that entries at
// the end have been taken away. Whoever can write all the files can also compute a
// new chain and a new anchor: against that, keep copies of the anchor elsewhere and
// give them to Verify.
//
// # Audit before acting
//
// The entry of an administrative act is written before the act: only if [Log.Act]
// succeeds may it be done, so that nothing is done that the log doesn't show. An
// act that then fails gets a second entry, with the same action and object, and the
// error as its reason.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Kind says what an entry is about.
type Kind string

// The kinds of entries.
const (
	Act     Kind = "act"     // something an operator does
	Refusal Kind = "refusal" // something that was asked for and not granted
	Note    Kind = "note"    // what the log has to say about itself
)

// Actor is who does something, or wants to.
type Actor struct {
	Name string `json:"name,omitempty"` // of the operator, user or device, as far as known
	Role string `json:"role,omitempty"` // viewer, operator, admin; empty for a device
	How  string `json:"how,omitempty"`  // how the identity was shown: "admin.sock", "token", "certificate", ...
}

// Entry is one line of the log. Whoever writes one leaves Number, Time, Kind,
// Count, Since, Prev and Hash to the Log.
type Entry struct {
	Number uint64
	Time   time.Time // when it was written
	Kind   Kind
	Actor  Actor
	Source string // the address it came from
	Action string // a noun and a verb: "device.suspend"
	Object string // the name of what it was done to
	// Before and After are what the object was and is to be. They are written as
	// JSON; a [Secret] in them is not shown. An Entry that was read has them as
	// json.RawMessage, or nil.
	Before, After any
	Reason        string // why: what the operator says, or the cause of the refusal
	// Count and Since belong to an entry that stands for several: so many refusals
	// like this one, the first of them at that time.
	Count      uint64
	Since      time.Time
	Prev, Hash Hash
}

// Secret is a string that the log doesn't show: passwords and their hashes, tokens,
// keys. However it is printed or encoded, "***" comes out; string(s) is the secret.
// Don't make it the key of a map: encoding/json shows that.
type Secret string

const hidden = "***"

// MarshalJSON writes "***", or "" for an empty Secret.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalText keeps the secret out of other encodings.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns "***", or "" for an empty Secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// Format keeps the secret out of every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue keeps the secret out of the logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Options say how a Log keeps its files. The zero value is good.
type Options struct {
	FileBytes  int64         // a file that has reached it is followed by another; 0: 16 MiB
	TotalBytes int64         // of all files; beyond it the oldest file is removed; 0: 1 GiB; negative: no limit
	Age        time.Duration // a file whose last entry is older is removed; 0: no limit
	FoldEvery  time.Duration // how long equal refusals are counted before there is another entry; 0: one minute
	Logger     *slog.Logger  // nil: nothing is logged
}

// Limits that are no option.
const (
	entryBytesMax = 1 << 20 // of a line; Act refuses a longer one
	textMax       = 512     // bytes of each text of a refusal; the rest is cut off
	actsMax       = 1024    // acts waiting to be written; beyond it Act fails with ErrBusy
	// refusalsMax is how many kinds of refusals are told apart in one interval, and
	// sourceMax from one address; what is beyond sourceMax becomes one kind "several",
	// what is beyond refusalsMax is lost and counted. So an attacker writes at most
	// about 256 entries a minute from many addresses, and 17 from one.
	refusalsMax = 256
	sourceMax   = 16

	anchorEvery = time.Second // while the log grows
	batchMax    = 1024        // entries that one write holds
)

const (
	fileBytesMin      = 4 << 10
	fileBytesDefault  = 16 << 20
	totalBytesDefault = 1 << 30
	foldEveryDefault  = time.Minute
)

// Validate names what is wrong with the options.
func (o Options) Validate() error {
	var errs []error
	if o.FileBytes != 0 && o.FileBytes < fileBytesMin {
		errs = append(errs, fmt.Errorf("option FileBytes is %d, expected at least %d", o.FileBytes, fileBytesMin))
	}
	if d := o.withDefaults(); d.TotalBytes > 0 && d.TotalBytes < 2*d.FileBytes {
		errs = append(errs, fmt.Errorf("option TotalBytes is %d, expected at least twice FileBytes, %d", d.TotalBytes, 2*d.FileBytes))
	}
	if o.Age < 0 {
		errs = append(errs, fmt.Errorf("option Age is %v, expected 0 or more", o.Age))
	}
	if o.FoldEvery < 0 {
		errs = append(errs, fmt.Errorf("option FoldEvery is %v, expected 0 or more", o.FoldEvery))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.FileBytes == 0 {
		o.FileBytes = fileBytesDefault
	}
	if o.TotalBytes == 0 {
		o.TotalBytes = totalBytesDefault
	}
	if o.FoldEvery == 0 {
		o.FoldEvery = foldEveryDefault
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Errors that callers act on.
var (
	ErrClosed = errors.New("the audit log is closed")
	// ErrBusy says that too many acts wait to be written.
	ErrBusy = errors.New("too many acts wait for the audit log")
)

// The actions of notes.
const (
	NoteTorn    = "audit.torn"    // a crash had left an unfinished line, which was cut off
	NoteDamage  = "audit.damage"  // the latest file is damaged; it was left as it is, and another begun
	NoteMissing = "audit.missing" // entries that the anchor knows are not there
	NoteAnchor  = "audit.anchor"  // there was no usable anchor
	NoteRemove  = "audit.remove"  // the oldest file was removed because of a limit
	NoteLost    = "audit.lost"    // Count refusals have no entry
	NoteFailed  = "audit.failed"  // Count acts could not be written, and were therefore refused
)

// self is the actor of a note.
var self = Actor{Name: "fairlead", Role: "system"}

func note(action, object, reason string, after any) Entry {
	return Entry{Kind: Note, Actor: self, Action: action, Object: object, Reason: reason, After: after}
}
