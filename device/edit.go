package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/ca"
	"fairlead/store"
)

// now is the time as it is kept.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// read returns what the KV has, not what memory has: in a cluster that may be behind.
// The entity is nil if there is none; rev is then what a Put must expect.
func (r *Registry) read(ctx context.Context, k Kind, name string) (entity, store.Rev, error) {
	x, err := r.kv.Get(ctx, key(k, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s %s: %w", k, name, err)
	}
	e, err := decode(x.Key, x.Value, x.Rev)
	return e, x.Rev, err
}

// find is read for what must be there.
func find[T entity](ctx context.Context, r *Registry, k Kind, name string) (T, error) {
	var none T
	e, _, err := r.read(ctx, k, name)
	if err != nil {
		return none, err
	}
	found, ok := e.(T)
	if !ok {
		return none, fmt.Errorf("%s %.160q: %w", k, name, ErrNotFound)
	}
	return found, nil
}

// write puts e where the key has the revision rev, and returns what is now in memory.
// After an error other than ErrChanged the change may have been made all the same.
func write[T entity](ctx context.Context, r *Registry, e T, rev store.Rev) (T, error) {
	var none T
	k, name := e.place()
	value, err := encode(e)
	if err != nil {
		return none, err
	}
	at, err := r.put(ctx, k, name, value, store.PutOptions{If: true, IfRev: rev})
	if err != nil {
		return none, err
	}
	mine, err := decode(key(k, name), value, at) // the caller keeps e
	if err != nil {
		return none, err
	}
	r.apply(k, name, at, mine)
	return mine.(T), nil
}

func (r *Registry) put(ctx context.Context, k Kind, name string, value []byte, o store.PutOptions) (store.Rev, error) {
	at, err := r.kv.Put(ctx, key(k, name), value, o)
	if errors.Is(err, store.ErrRevision) {
		return 0, fmt.Errorf("%s %s: %w", k, name, ErrChanged)
	}
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", k, name, err)
	}
	return at, nil
}

// remove marks the key as gone; see record.
func (r *Registry) remove(ctx context.Context, k Kind, name string, rev store.Rev) error {
	at, err := r.put(ctx, k, name, gone(), store.PutOptions{If: true, IfRev: rev, TTL: goneTTL})
	if err != nil {
		return err
	}
	r.apply(k, name, at, nil)
	return nil
}

// AddOptions say how a device is added. The zero value is good.
type AddOptions struct {
	// Again gives the name of a retired device to another one. What is known of the
	// revoked certificates of the first is kept until they end.
	Again bool
}

// Add adds a device. It takes name, groups, attributes, certificates, password and
// SCRAM keys from d, and its state if that is pending; else the device is active. New
// groups are made. The error is ErrExists if there is a device or a user of that name,
// ErrRetired if there was a device, and ErrLimit.
func (r *Registry) Add(ctx context.Context, d Device, o AddOptions) (Device, error) {
	d.Groups, d.Attrs = sorted(d.Groups), maps.Clone(d.Attrs)
	d.Created, d.Rev = now(), 0
	d.Updated = d.Created
	if d.State != auth.Pending {
		d.State = auth.Active
	}
	if err := d.Check(); err != nil {
		return Device{}, err
	}
	e, rev, err := r.read(ctx, KindDevice, d.Name)
	if err != nil {
		return Device{}, err
	}
	if old, ok := e.(*Device); ok {
		if err := again(old, &d, o); err != nil {
			return Device{}, err
		}
	} else if err := r.room(KindDevice); err != nil {
		return Device{}, err
	}
	if err := r.unused(ctx, KindUser, d.Name); err != nil {
		return Device{}, err
	}
	if err := r.makeGroups(ctx, d.Groups); err != nil {
		return Device{}, err
	}
	return added(write(ctx, r, &d, rev))
}

// added returns what was written. A change between reading and writing is somebody
// else who has added it.
func added[T any](e *T, err error) (T, error) {
	if errors.Is(err, ErrChanged) {
		err = fmt.Errorf("%w: %w", ErrExists, err)
	}
	if err != nil {
		var none T
		return none, err
	}
	return *e, nil
}

// again prepares d to take the place of old.
func again(old, d *Device, o AddOptions) error {
	switch {
	case old.State != auth.Retired:
		return fmt.Errorf("device %s: %w", d.Name, ErrExists)
	case !o.Again:
		return fmt.Errorf("device %s: %w, and its name is kept", d.Name, ErrRetired)
	}
	d.Certificates = append(slices.Clone(d.Certificates), valid(old.Certificates, d.Created)...)
	return d.Check()
}

// valid leaves out the certificates that have ended by time.
func valid(list []Certificate, now time.Time) []Certificate {
	return slices.DeleteFunc(slices.Clone(list), func(c Certificate) bool { return c.NotAfter.Before(now) })
}

// unused refuses a name that a device and a user would share: with a password, one could
// pass for the other.
func (r *Registry) unused(ctx context.Context, k Kind, name string) error {
	e, _, err := r.read(ctx, k, name)
	if err != nil {
		return err
	}
	if e != nil {
		return fmt.Errorf("%s %s: %w: devices and users share no names", k, name, ErrExists)
	}
	return nil
}

// room refuses one more than there may be, by what is in memory: nodes that add at the
// same time may go beyond by a few.
func (r *Registry) room(k Kind) error {
	s := r.Stats()
	n, most := s.Devices, r.most
	switch k {
	case KindUser:
		n, most = s.Users, UserCountMax
	case KindGroup:
		n, most = s.Groups, GroupCountMax
	case KindToken:
		n, most = s.Tokens, TokenCountMax
	}
	if n >= most {
		return fmt.Errorf("%ss: there are %d: %w", k, n, ErrLimit)
	}
	return nil
}

// makeGroups writes groups that are new. A group without members does no harm, so it
// is written before its first member.
func (r *Registry) makeGroups(ctx context.Context, names []string) error {
	for _, name := range names {
		if _, ok := r.group(name); ok {
			continue
		}
		_, err := r.AddGroup(ctx, Group{Name: name})
		if err != nil && !errors.Is(err, ErrExists) {
			return err
		}
	}
	return nil
}

func (r *Registry) group(name string) (*Group, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	g, ok := r.groups.items[name]
	return g, ok
}

// Show returns a device as it is now.
func (r *Registry) Show(ctx context.Context, name string) (Device, error) {
	if err := ca.ValidName(name); err != nil {
		return Device{}, err
	}
	d, err := find[*Device](ctx, r, KindDevice, name)
	if err != nil {
		return Device{}, err
	}
	return *d, nil
}

// Update gives a device, as Show or Devices returned it, the groups and attributes of
// d. Everything else has a method of its own, and a difference there is an error. It
// fails with ErrChanged if the device has changed since.
func (r *Registry) Update(ctx context.Context, d Device) (Device, error) {
	if d.Rev == 0 {
		return Device{}, fmt.Errorf("device %s: no revision: expected a device that was read", d.Name)
	}
	return r.change(ctx, d.Name, d.Rev, func(old *Device) error {
		was := *old
		old.Groups, old.Attrs = sorted(d.Groups), maps.Clone(d.Attrs)
		was.Groups, was.Attrs, d.Groups, d.Attrs = nil, nil, nil, nil
		a, err := encode(&was)
		if err != nil {
			return err
		}
		if b, err := encode(&d); err != nil || !bytes.Equal(a, b) {
			return fmt.Errorf("device %s: expected a change of groups and attributes only", d.Name)
		}
		if err := old.Check(); err != nil {
			return err
		}
		return r.makeGroups(ctx, old.Groups)
	})
}

// errSame ends a change that changes nothing.
var errSame = errors.New("nothing to change")

// triesMax is how often a change that asks for no revision is tried.
const triesMax = 8

// change changes a device that has the revision rev, or whichever if rev is 0.
func (r *Registry) change(ctx context.Context, name string, rev store.Rev, edit func(*Device) error) (Device, error) {
	if err := ca.ValidName(name); err != nil {
		return Device{}, err
	}
	for try := 1; ; try++ {
		d, err := r.changeOnce(ctx, name, rev, edit)
		if rev != 0 || try == triesMax || !errors.Is(err, ErrChanged) {
			return d, err
		}
	}
}

func (r *Registry) changeOnce(ctx context.Context, name string, rev store.Rev, edit func(*Device) error) (Device, error) {
	old, err := find[*Device](ctx, r, KindDevice, name)
	if err != nil {
		return Device{}, err
	}
	if rev != 0 && old.Rev != rev {
		return Device{}, fmt.Errorf("device %s: revision %d, expected %d: %w", name, old.Rev, rev, ErrChanged)
	}
	at := old.Rev
	if old.State == auth.Retired {
		return *old, fmt.Errorf("device %s: %w", name, ErrRetired)
	}
	if err := edit(old); errors.Is(err, errSame) {
		return *old, nil
	} else if err != nil {
		return Device{}, err
	}
	old.Updated = now()
	d, err := write(ctx, r, old, at)
	if err != nil {
		return Device{}, err
	}
	return *d, nil
}

// Suspend keeps a device out until Resume. Its credentials stay as they are. With a rev
// the device must have that revision; 0: any. A device that is suspended stays so, and
// there is no error.
func (r *Registry) Suspend(ctx context.Context, name string, rev store.Rev) (Device, error) {
	return r.setState(ctx, name, rev, auth.Suspended)
}

// Resume lets a suspended or pending device in again, see Suspend.
func (r *Registry) Resume(ctx context.Context, name string, rev store.Rev) (Device, error) {
	return r.setState(ctx, name, rev, auth.Active)
}

func (r *Registry) setState(ctx context.Context, name string, rev store.Rev, s auth.State) (Device, error) {
	return r.change(ctx, name, rev, func(d *Device) error {
		if d.State == s {
			return errSame
		}
		d.State = s
		return nil
	})
}

// Retire keeps a device out for good: its certificates are revoked and its password is
// removed. The certificates in the answer are to be revoked at the CA then. A device
// that is retired stays so, and there is no error.
func (r *Registry) Retire(ctx context.Context, name string, rev store.Rev, reason string) (Device, error) {
	d, err := r.change(ctx, name, rev, func(d *Device) error {
		d.State, d.Password, d.SCRAM = auth.Retired, "", nil
		d.Certificates = valid(d.Certificates, now())
		for i := range d.Certificates {
			d.Certificates[i].revoke(reason)
		}
		return nil
	})
	if errors.Is(err, ErrRetired) {
		return d, nil
	}
	return d, err
}

func (c *Certificate) revoke(reason string) {
	if c.Revoked.IsZero() {
		c.Revoked, c.Reason = now(), reason
	}
}

// AddCertificate adds a certificate to those of a device, and forgets those that have
// ended by time. The error is ErrExists if the device has one of that serial number.
func (r *Registry) AddCertificate(ctx context.Context, name string, rev store.Rev, c Certificate) (Device, error) {
	return r.change(ctx, name, rev, func(d *Device) error {
		if d.certificate(c.Serial) != nil {
			return fmt.Errorf("device %s: certificate %s: %w", name, c.Serial, ErrExists)
		}
		d.Certificates = append(valid(d.Certificates, now()), c)
		return nil
	})
}

// RevokeCertificate notes that a certificate is revoked. The CA has to be told as well.
func (r *Registry) RevokeCertificate(ctx context.Context, name string, rev store.Rev, s ca.Serial, reason string) (Device, error) {
	return r.change(ctx, name, rev, func(d *Device) error {
		c := d.certificate(s)
		switch {
		case c == nil:
			return fmt.Errorf("device %s: certificate %.80q: %w", name, s, ErrNotFound)
		case !c.Revoked.IsZero():
			return errSame
		}
		c.revoke(reason)
		return nil
	})
}

func (d *Device) certificate(s ca.Serial) *Certificate {
	for i := range d.Certificates {
		if d.Certificates[i].Serial == s {
			return &d.Certificates[i]
		}
	}
	return nil
}

// SetPassword replaces the password of a device: a hash of auth.HashPassword or
// auth.HashSecret, and keys of auth.DeriveSCRAM. Empty ones close that way in.
func (r *Registry) SetPassword(ctx context.Context, name string, rev store.Rev, hash audit.Secret, keys *auth.SCRAMKeys) (Device, error) {
	return r.change(ctx, name, rev, func(d *Device) error {
		d.Password, d.SCRAM = hash, (*SCRAM)(keys)
		return nil
	})
}
