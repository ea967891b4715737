package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"fairlead/auth"
	"fairlead/store"
)

// Options say how a Registry works. The zero value is good.
type Options struct {
	DeviceCountMax int          // how many devices there may be; 0: DeviceCountMax
	Logger         *slog.Logger // nil: nothing is logged
}

// Registry is the devices, users, groups and tokens, in the KV and in memory. All its
// methods may be called at the same time. Make one with [Open].
type Registry struct {
	kv     store.KV
	most   int // devices
	logger *slog.Logger
	stop   context.CancelFunc
	ended  sync.WaitGroup
	feeds  feeds

	mu      sync.RWMutex // guards all below
	devices table[*Device]
	users   table[*User]
	groups  table[*Group]
	tokens  table[*Token]
	pool    pool
	bad     map[string]struct{} // keys whose values could not be read
	stats   Stats
}

// Stats is what a Registry holds and how it fares.
type Stats struct {
	Devices, Users, Groups, Tokens int
	// Unreadable are values that could not be read. What they are about is kept out:
	// it is treated as not being in the registry, and can't be added.
	Unreadable int
	// Interruptions is how often following the changes was interrupted. While it is,
	// changes made by other nodes are not seen; those made here are.
	Interruptions uint64
	Err           error // of the latest interruption
}

const (
	pageSize   = 1000                   // entries that Open reads at once
	retryFirst = 100 * time.Millisecond // after an interruption
	retryMost  = 5 * time.Second
	goneTTL    = 24 * time.Hour // how long a key says that it is gone
	goneMax    = 1024           // of those, before the old ones are swept
)

// Open reads the registry from the KV and follows its changes until Close. If a newer
// version of the program has written to it the error is store.ErrNewerFormat. A value
// that is damaged is logged and counted, and what it is about is kept out.
func Open(ctx context.Context, kv store.KV, o Options) (*Registry, error) {
	r := &Registry{
		kv: kv, most: o.DeviceCountMax, logger: o.Logger,
		devices: newTable[*Device](), users: newTable[*User](), groups: newTable[*Group](), tokens: newTable[*Token](),
		pool: make(pool), bad: make(map[string]struct{}),
	}
	r.feeds.all = make(map[*feed]struct{})
	if r.most <= 0 {
		r.most = DeviceCountMax
	}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	if err := r.load(ctx); err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	r.ended.Go(func() { r.follow(following) }) // ends with Close
	return r, nil
}

// Close ends following the KV, and every Changes.
func (r *Registry) Close() error {
	r.stop()
	r.ended.Wait()
	r.feeds.close()
	return nil
}

func (r *Registry) load(ctx context.Context) error {
	after := ""
	for {
		entries, err := r.kv.List(ctx, keyPrefix, after, pageSize)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, err := r.take(store.Change{Entry: e}); errors.Is(err, store.ErrNewerFormat) {
				return err
			}
		}
		if len(entries) < pageSize {
			return nil
		}
		after = entries[len(entries)-1].Key
	}
}

// follow takes in what changes. It begins with all there is: a change between the
// reading of one page and the next in load would else be missed. What is known already
// costs a comparison of revisions.
func (r *Registry) follow(ctx context.Context) {
	var from store.Rev
	wait := retryFirst
	for {
		err := r.watch(ctx, &from, &wait)
		if ctx.Err() != nil {
			return
		}
		r.interrupted(err, wait)
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		wait = min(2*wait, retryMost)
	}
}

func (r *Registry) watch(ctx context.Context, from *store.Rev, wait *time.Duration) error {
	for c, err := range r.kv.Watch(ctx, keyPrefix, *from) {
		if err != nil {
			return err
		}
		*from, *wait = max(*from, c.Rev), retryFirst
		changed, _ := r.take(c)
		if changed != (Change{}) {
			r.feeds.publish(changed)
		}
	}
	return errors.New("the watch has ended")
}

func (r *Registry) interrupted(err error, wait time.Duration) {
	r.logger.Warn("registry: changes are not seen for a moment", "err", err, "retry_in", wait)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Interruptions++
	r.stats.Err = err
}

// take brings a change of the KV into memory. The Change is empty if it was known.
func (r *Registry) take(c store.Change) (Change, error) {
	k, name, ok := parseKey(c.Key)
	if !ok {
		return Change{}, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.Rev <= r.revLocked(k, name) {
		return Change{}, nil
	}
	if c.Deleted { // a day after it was gone
		delete(r.bad, c.Key)
		return r.forgetLocked(k, name, c.Rev, true), nil
	}
	e, err := decode(c.Key, c.Value, c.Rev)
	if err != nil {
		r.logger.Error("registry: a value is passed over", "err", err)
		e = nil // kept out
	}
	changed := r.applyLocked(k, name, c.Rev, e)
	if err != nil {
		r.bad[c.Key] = struct{}{}
	}
	return changed, err
}

// apply brings a change into memory that was made here, before the Watch shows it.
func (r *Registry) apply(k Kind, name string, rev store.Rev, e entity) {
	r.mu.Lock()
	var c Change
	if rev > r.revLocked(k, name) {
		c = r.applyLocked(k, name, rev, e)
	}
	r.mu.Unlock()
	if c != (Change{}) {
		r.feeds.publish(c)
	}
}

func (r *Registry) revLocked(k Kind, name string) store.Rev {
	switch k {
	case KindDevice:
		return r.devices.rev(name)
	case KindUser:
		return r.users.rev(name)
	case KindGroup:
		return r.groups.rev(name)
	}
	return r.tokens.rev(name)
}

// applyLocked takes e over; nil: it is gone.
func (r *Registry) applyLocked(k Kind, name string, rev store.Rev, e entity) Change {
	delete(r.bad, key(k, name))
	switch e := e.(type) {
	case nil:
		return r.forgetLocked(k, name, rev, false)
	case *Device:
		r.pool.device(e)
		r.devices.put(name, e)
	case *User:
		r.pool.groups(e.Groups)
		r.users.put(name, e)
	case *Group:
		r.groups.put(name, e)
	case *Token:
		r.tokens.put(name, e)
	}
	return Change{k, name}
}

// forgetLocked removes what is gone. Until its key is deleted, rev is remembered, so
// that what was before does not come back.
func (r *Registry) forgetLocked(k Kind, name string, rev store.Rev, deleted bool) Change {
	was := false
	switch k {
	case KindDevice:
		was = r.devices.forget(name, rev, deleted)
	case KindUser:
		was = r.users.forget(name, rev, deleted)
	case KindGroup:
		was = r.groups.forget(name, rev, deleted)
	case KindToken:
		was = r.tokens.forget(name, rev, deleted)
	}
	if !was {
		return Change{}
	}
	return Change{k, name}
}

// Stats does no I/O.
func (r *Registry) Stats() Stats {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := r.stats
	s.Unreadable = len(r.bad)
	s.Devices, s.Users, s.Groups, s.Tokens = len(r.devices.items), len(r.users.items), len(r.groups.items), len(r.tokens.items)
	return s
}

var _ auth.Directory = (*Registry)(nil)

// Device finds a device in memory, whatever its state. It allocates nothing, and its
// answer must not be changed.
func (r *Registry) Device(name string) (auth.Device, bool) {
	r.mu.RLock()
	d, ok := r.devices.items[name]
	r.mu.RUnlock()
	if !ok {
		return auth.Device{}, false
	}
	return auth.Device{
		Name: d.Name, State: d.State, Groups: d.Groups, Attrs: d.Attrs,
		Secret: auth.Secret{Password: string(d.Password), SCRAM: (*auth.SCRAMKeys)(d.SCRAM)},
	}, true
}

// User finds a user in memory, as Device does.
func (r *Registry) User(name string) (auth.User, bool) {
	r.mu.RLock()
	u, ok := r.users.items[name]
	r.mu.RUnlock()
	if !ok {
		return auth.User{}, false
	}
	return auth.User{
		Name: u.Name, Groups: u.Groups, Role: u.Role, Disabled: u.Disabled,
		Secret: auth.Secret{Password: string(u.Password), SCRAM: (*auth.SCRAMKeys)(u.SCRAM)},
	}, true
}

// Token finds a token in memory, as Device does.
func (r *Registry) Token(id string) (auth.Token, bool) {
	r.mu.RLock()
	t, ok := r.tokens.items[id]
	r.mu.RUnlock()
	if !ok {
		return auth.Token{}, false
	}
	return auth.Token{ID: t.ID, Hash: string(t.Hash), Device: t.Device, User: t.User, Expires: t.Expires}, true
}
