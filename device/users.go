package device

import (
	"context"
	"fmt"
	"slices"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/store"
)

// AddUser adds a user. The error is ErrExists if there is a user or a device of that
// name, and ErrLimit. New groups are made.
func (r *Registry) AddUser(ctx context.Context, u User) (User, error) {
	u.Groups = sorted(u.Groups)
	u.Created = now()
	u.Updated = u.Created
	if err := u.Check(); err != nil {
		return User{}, err
	}
	rev, err := r.vacant(ctx, KindUser, u.Name)
	if err != nil {
		return User{}, err
	}
	if err := r.unused(ctx, KindDevice, u.Name); err != nil {
		return User{}, err
	}
	if err := r.makeGroups(ctx, u.Groups); err != nil {
		return User{}, err
	}
	return added(write(ctx, r, &u, rev))
}

// vacant returns the revision that a new entity has to expect.
func (r *Registry) vacant(ctx context.Context, k Kind, name string) (store.Rev, error) {
	e, rev, err := r.read(ctx, k, name)
	if err != nil {
		return 0, err
	}
	if e != nil {
		return 0, fmt.Errorf("%s %s: %w", k, name, ErrExists)
	}
	return rev, r.room(k)
}

// ShowUser returns a user as it is now.
func (r *Registry) ShowUser(ctx context.Context, name string) (User, error) {
	if err := checkUserName(name); err != nil {
		return User{}, err
	}
	u, err := find[*User](ctx, r, KindUser, name)
	if err != nil {
		return User{}, err
	}
	return *u, nil
}

// UpdateUser replaces a user, as ShowUser or Users returned it, by u. It fails with
// ErrChanged if the user has changed since.
func (r *Registry) UpdateUser(ctx context.Context, u User) (User, error) {
	old, err := r.ShowUser(ctx, u.Name)
	if err != nil {
		return User{}, err
	}
	if old.Rev != u.Rev {
		return User{}, fmt.Errorf("user %s: revision %d, expected %d: %w", u.Name, old.Rev, u.Rev, ErrChanged)
	}
	u.Groups = sorted(u.Groups)
	u.Created, u.Updated = old.Created, now()
	if err := u.Check(); err != nil {
		return User{}, err
	}
	if err := r.makeGroups(ctx, u.Groups); err != nil {
		return User{}, err
	}
	return written(write(ctx, r, &u, u.Rev))
}

func written[T any](e *T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return *e, nil
}

// RemoveUser removes a user that has the revision rev; 0: any. Its tokens stay and stand
// for nobody.
func (r *Registry) RemoveUser(ctx context.Context, name string, rev store.Rev) error {
	if err := checkUserName(name); err != nil {
		return err
	}
	return r.removeAt(ctx, KindUser, name, rev)
}

// removeAt removes what has the revision rev, or whichever if rev is 0.
func (r *Registry) removeAt(ctx context.Context, k Kind, name string, rev store.Rev) error {
	e, at, err := r.read(ctx, k, name)
	switch {
	case err != nil:
		return err
	case e == nil:
		return fmt.Errorf("%s %s: %w", k, name, ErrNotFound)
	case rev != 0 && rev != at:
		return fmt.Errorf("%s %s: revision %d, expected %d: %w", k, name, at, rev, ErrChanged)
	}
	return r.remove(ctx, k, name, at)
}

// AddGroup adds a group. The error is ErrExists if there is one, and ErrLimit.
func (r *Registry) AddGroup(ctx context.Context, g Group) (Group, error) {
	g.Created = now()
	g.Updated = g.Created
	if err := g.Check(); err != nil {
		return Group{}, err
	}
	rev, err := r.vacant(ctx, KindGroup, g.Name)
	if err != nil {
		return Group{}, err
	}
	return added(write(ctx, r, &g, rev))
}

// ShowGroup returns a group as it is now.
func (r *Registry) ShowGroup(ctx context.Context, name string) (Group, error) {
	if err := checkGroup(name); err != nil {
		return Group{}, err
	}
	return written(find[*Group](ctx, r, KindGroup, name))
}

// UpdateGroup replaces a group, as ShowGroup or Groups returned it, by g. It fails with
// ErrChanged if the group has changed since.
func (r *Registry) UpdateGroup(ctx context.Context, g Group) (Group, error) {
	old, err := r.ShowGroup(ctx, g.Name)
	if err != nil {
		return Group{}, err
	}
	if old.Rev != g.Rev {
		return Group{}, fmt.Errorf("group %s: revision %d, expected %d: %w", g.Name, old.Rev, g.Rev, ErrChanged)
	}
	g.Created, g.Updated = old.Created, now()
	return written(write(ctx, r, &g, g.Rev))
}

// RemoveGroup removes a group that has the revision rev; 0: any. The error is ErrInUse
// if it has members. One who joins at the same moment is in a group that is not listed,
// and policies see the same.
func (r *Registry) RemoveGroup(ctx context.Context, name string, rev store.Rev) error {
	if err := checkGroup(name); err != nil {
		return err
	}
	if n := r.members(name); n > 0 {
		return fmt.Errorf("group %s: %w: %d", name, ErrInUse, n)
	}
	return r.removeAt(ctx, KindGroup, name, rev)
}

func (r *Registry) members(group string) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := 0
	for _, d := range r.devices.items {
		if slices.Contains(d.Groups, group) {
			n++
		}
	}
	for _, u := range r.users.items {
		if slices.Contains(u.Groups, group) {
			n++
		}
	}
	return n
}

// AddToken makes a token for t.Device or t.User, which must be in the registry, and
// returns its text, which is not kept, and the Token. It takes About and Expires from t.
func (r *Registry) AddToken(ctx context.Context, t Token) (audit.Secret, Token, error) {
	text, made := auth.NewToken()
	t.ID, t.Hash, t.Created = made.ID, audit.Secret(made.Hash), now()
	if err := t.Check(); err != nil {
		return "", Token{}, err
	}
	k, name := KindUser, t.User
	if t.Device != "" {
		k, name = KindDevice, t.Device
	}
	if e, _, err := r.read(ctx, k, name); err != nil {
		return "", Token{}, err
	} else if e == nil {
		return "", Token{}, fmt.Errorf("%s %s: %w", k, name, ErrNotFound)
	}
	if err := r.room(KindToken); err != nil {
		return "", Token{}, err
	}
	t, err := added(write(ctx, r, &t, 0))
	if err != nil {
		return "", Token{}, err
	}
	return audit.Secret(text), t, nil
}

// RemoveToken removes a token. From then on it is worth nothing.
func (r *Registry) RemoveToken(ctx context.Context, id string) error {
	if err := checkGroup(id); err != nil {
		return fmt.Errorf("token %.80q: %w", id, ErrNotFound)
	}
	return r.removeAt(ctx, KindToken, id, 0)
}
