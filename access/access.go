// Package access is the policies in force: documents of the configuration and those
// that operators have applied, which are kept in the KV with their versions. They are
// compiled together and swapped as a whole, so at any time one [policy.Set] decides.
// Begin with [Open].
//
//	policy/document/NAME    a document that was applied
//
// A document that can't be read, or does not fit the others, changes nothing: the
// policies in force stay.
package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/auth"
	"fairlead/mqtt"
	"fairlead/policy"
	"fairlead/store"
)

// Errors that callers act on.
var (
	ErrNotFound = errors.New("no such policy document")
	// ErrChanged says that the document has another version than the caller has seen.
	ErrChanged = errors.New("the policy document has been changed meanwhile")
	// ErrFile says that a document belongs to the configuration.
	ErrFile = errors.New("the policy document comes from a file of the configuration: change it there")
)

const (
	keyPrefix = "policy/document/"
	// DocumentsMax is how many documents may be applied, and TextMax how long one is, in
	// bytes.
	DocumentsMax = 1000
	TextMax      = 1 << 20
	// retryEvery is how long to wait when following the KV was interrupted.
	retryEvery = time.Second
)

// Document is a document of policies that is in force.
type Document struct {
	Name    string    `json:"name"`
	Text    string    `json:"text"`
	Version int       `json:"version"` // from 1, grows with each change; 0: a file of the configuration
	Applied time.Time `json:"applied"`
	By      string    `json:"by,omitempty"` // who applied it
}

// Registry is what Policies needs to know of the registry.
type Registry interface {
	Device(name string) (auth.Device, bool)
}

// Options are what Open needs. The zero Options have the built-in policies only.
type Options struct {
	Registry Registry     // nil: no device is registered
	Files    []string     // documents of the configuration; their paths are their names
	Own      []Document   // documents that the program adds, such as those of a profile
	Logger   *slog.Logger // nil: nothing is logged
	Now      func() time.Time
	// Changed is called after other policies have come into force, by whichever node. It
	// must not wait.
	Changed func()
}

// Policies are the policies in force. Make them with [Open]; all methods may be called
// at the same time.
type Policies struct {
	kv     store.KV
	o      Options
	files  []Document
	set    atomic.Pointer[policy.Set]
	stop   context.CancelFunc
	ended  sync.WaitGroup
	mu     sync.Mutex // guards stored, and is held while one is changed
	stored map[string]stored
}

// stored is a document as the KV has it.
type stored struct {
	Document
	rev    store.Rev
	parsed *policy.Document
}

// Open reads all documents and puts them in force. The error lists what is wrong with a
// document of the configuration. One in the KV that this program can't read keeps the
// node from starting as well: without it more might be allowed than was meant.
func Open(ctx context.Context, kv store.KV, o Options) (*Policies, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Policies{kv: kv, o: o, files: slices.Clone(o.Own), stored: make(map[string]stored)}
	if err := p.readFiles(); err != nil {
		return nil, err
	}
	if err := p.load(ctx); err != nil {
		return nil, fmt.Errorf("read the policies: %w", err)
	}
	set, err := p.compile(p.stored)
	if err != nil {
		return nil, fmt.Errorf("the policies do not fit together: %w", err)
	}
	p.set.Store(set)
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	p.ended.Go(func() { p.follow(following) }) // ends with Close
	return p, nil
}

// Close ends following the KV.
func (p *Policies) Close() {
	p.stop()
	p.ended.Wait()
}

func (p *Policies) readFiles() error {
	var errs []error
	for _, name := range p.o.Files {
		info, err := os.Stat(name)
		if err == nil && info.Size() > TextMax {
			err = fmt.Errorf("%s: %d bytes: expected at most %d", name, info.Size(), TextMax)
		}
		var text []byte
		if err == nil {
			text, err = os.ReadFile(name)
		}
		if err == nil {
			_, err = policy.Parse(name, text)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.files = append(p.files, Document{Name: name, Text: string(text), Applied: info.ModTime()})
	}
	return errors.Join(errs...)
}

func (p *Policies) load(ctx context.Context) error {
	after := ""
	for {
		page, err := p.kv.List(ctx, keyPrefix, after, 100)
		if err != nil {
			return err
		}
		for _, e := range page {
			d, err := decode(e)
			if err != nil {
				return err
			}
			p.stored[d.Name] = d
			after = e.Key
		}
		if len(page) < 100 {
			return nil
		}
	}
}

// record is a document's value in the KV.
type record struct {
	Format int `json:"format"`
	Document
}

// recordFormat is the version of record that is written, and the newest that is read.
const recordFormat = 1

func decode(e store.Entry) (stored, error) {
	var r record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return stored{}, fmt.Errorf("key %q: %w: %w", e.Key, store.ErrDamaged, err)
	}
	if r.Format > recordFormat {
		return stored{}, fmt.Errorf("key %q: format %d, known up to %d: %w", e.Key, r.Format, recordFormat, store.ErrNewerFormat)
	}
	parsed, err := policy.Parse(r.Name, []byte(r.Text))
	if err != nil {
		return stored{}, fmt.Errorf("key %q: %w", e.Key, err)
	}
	return stored{Document: r.Document, rev: e.Rev, parsed: parsed}, nil
}

// compile makes a Set of the files and the documents.
func (p *Policies) compile(documents map[string]stored) (*policy.Set, error) {
	var all []*policy.Document
	for _, f := range p.files {
		d, err := policy.Parse(f.Name, []byte(f.Text))
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		all = append(all, documents[name].parsed)
	}
	return policy.Compile(all...)
}

// Set is what decides now.
func (p *Policies) Set() *policy.Set { return p.set.Load() }

// Rights are what the principal may do now; nil, which means everything, for who came
// in by a listener that asks nobody. It is part of what makes Policies a
// broker.Admission.
func (p *Policies) Rights(who *policy.Principal) *policy.Rights {
	if who.Method == policy.MethodOpen {
		return nil
	}
	return p.Set().For(who)
}

// Reserved reports whether the Client Identifier is one of a registered device.
func (p *Policies) Reserved(id mqtt.ClientID) bool {
	if p.o.Registry == nil {
		return false
	}
	_, ok := p.o.Registry.Device(policy.NameOf(string(id)))
	return ok
}

// Documents lists the documents in force: those of the configuration, then the others by
// name.
func (p *Policies) Documents() []Document {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Clone(p.files)
	for _, name := range slices.Sorted(maps.Keys(p.stored)) {
		all = append(all, p.stored[name].Document)
	}
	return all
}

// names are those of documents: they stand in URLs and on command lines.
var names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// ValidName refuses what is no name of a document.
func ValidName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("policy document name %q: expected letters, digits, '.', '_' and '-', at most 128, a letter or digit first", name)
	}
	return nil
}

// Check returns the Set that would be in force with this document, in the place of one
// of the same name. The error says what is wrong, with line and column.
func (p *Policies) Check(name string, text []byte) (*policy.Set, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, _, err := p.withLocked(name, text)
	return set, err
}

func (p *Policies) withLocked(name string, text []byte) (*policy.Set, *policy.Document, error) {
	if err := ValidName(name); err != nil {
		return nil, nil, err
	}
	if len(text) > TextMax {
		return nil, nil, fmt.Errorf("policy document %s: %d bytes: expected at most %d", name, len(text), TextMax)
	}
	parsed, err := policy.Parse(name, text)
	if err != nil {
		return nil, nil, err
	}
	documents := maps.Clone(p.stored)
	documents[name] = stored{parsed: parsed}
	if len(documents) > DocumentsMax {
		return nil, nil, fmt.Errorf("%d policy documents: expected at most %d", len(documents), DocumentsMax)
	}
	set, err := p.compile(documents)
	return set, parsed, err
}

// AnyVersion lets Apply and Remove change a document whatever its version is.
const AnyVersion = -1

// Apply puts a document in force, in the place of one of the same name. It returns once
// the document is durable and decides. The version is the one that the caller has seen,
// 0 if there was none; another one is ErrChanged.
func (p *Policies) Apply(ctx context.Context, name string, text []byte, by string, version int) (Document, error) {
	p.mu.Lock()
	set, parsed, err := p.withLocked(name, text)
	if err != nil {
		p.mu.Unlock()
		return Document{}, err
	}
	old := p.stored[name]
	if version != AnyVersion && version != old.Version {
		p.mu.Unlock()
		return Document{}, fmt.Errorf("%w: %s has version %d, expected %d", ErrChanged, name, old.Version, version)
	}
	d := Document{Name: name, Text: string(text), Version: old.Version + 1, Applied: p.o.Now().UTC(), By: by}
	value, err := json.Marshal(record{recordFormat, d})
	if err != nil {
		panic("access: a document that can't be written: " + err.Error())
	}
	rev, err := p.kv.Put(ctx, keyPrefix+name, value, store.PutOptions{If: true, IfRev: old.rev})
	if err != nil {
		p.mu.Unlock()
		return Document{}, changed(name, err)
	}
	p.stored[name] = stored{Document: d, rev: rev, parsed: parsed}
	p.set.Store(set)
	p.mu.Unlock()
	p.tell()
	return d, nil
}

// Remove takes a document out of force.
func (p *Policies) Remove(ctx context.Context, name string, version int) error {
	p.mu.Lock()
	old, ok := p.stored[name]
	switch {
	case !ok && slices.ContainsFunc(p.files, func(d Document) bool { return d.Name == name }):
		p.mu.Unlock()
		return fmt.Errorf("%s: %w", name, ErrFile)
	case !ok:
		p.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	case version != AnyVersion && version != old.Version:
		p.mu.Unlock()
		return fmt.Errorf("%w: %s has version %d, expected %d", ErrChanged, name, old.Version, version)
	}
	rest := maps.Clone(p.stored)
	delete(rest, name)
	set, err := p.compile(rest)
	if err == nil {
		err = p.kv.Delete(ctx, keyPrefix+name, store.PutOptions{If: true, IfRev: old.rev})
	}
	if err != nil {
		p.mu.Unlock()
		return changed(name, err)
	}
	p.stored = rest
	p.set.Store(set)
	p.mu.Unlock()
	p.tell()
	return nil
}

func changed(name string, err error) error {
	if errors.Is(err, store.ErrRevision) {
		return fmt.Errorf("%w: %s", ErrChanged, name)
	}
	return fmt.Errorf("keep the policy document %s: %w", name, err)
}

func (p *Policies) tell() {
	if p.o.Changed != nil {
		p.o.Changed()
	}
}

// follow takes over what other nodes apply.
func (p *Policies) follow(ctx context.Context) {
	var from store.Rev
	for ctx.Err() == nil {
		for c, err := range p.kv.Watch(ctx, keyPrefix, from) {
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				p.o.Logger.Warn("following the policies was interrupted", "err", err)
				break
			}
			from = c.Rev
			p.take(c)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
}

// take takes over one change, unless it is known.
func (p *Policies) take(c store.Change) {
	p.mu.Lock()
	name := strings.TrimPrefix(c.Key, keyPrefix)
	old, known := p.stored[name]
	if known && old.rev >= c.Rev || !known && c.Deleted {
		p.mu.Unlock()
		return
	}
	next := maps.Clone(p.stored)
	delete(next, name)
	var err error
	if !c.Deleted {
		var d stored
		if d, err = decode(c.Entry); err == nil {
			next[name] = d
		}
	}
	var set *policy.Set
	if err == nil {
		set, err = p.compile(next)
	}
	if err != nil {
		p.mu.Unlock()
		p.o.Logger.Error("a policy document can't be used: the policies in force stay as they are", "document", name, "err", err)
		return
	}
	p.stored = next
	p.set.Store(set)
	p.mu.Unlock()
	p.tell()
}
