package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"fairlead/device"
	"fairlead/store"
)

func (s *Server) userRoutes(a *api) {
	add(a, "GET /v1/users", "Lists users, in the order of their names.", s.listUsers)
	add(a, "POST /v1/users", "Adds a user.", s.addUser, status(http.StatusCreated))
	add(a, "GET /v1/users/{name}", "Shows a user.", s.showUser)
	add(a, "PATCH /v1/users/{name}", "Changes a user.", s.setUser)
	add(a, "DELETE /v1/users/{name}", "Removes a user. Its tokens stand for nobody then.", s.removeUser)
	add(a, "GET /v1/groups", "Lists groups, in the order of their names.", s.listGroups)
	add(a, "POST /v1/groups", "Adds a group.", s.addGroup, status(http.StatusCreated))
	add(a, "DELETE /v1/groups/{name}", "Removes a group that has no members.", s.removeGroup)
	add(a, "GET /v1/tokens", "Lists tokens, in the order of their ids.", s.listTokens)
	add(a, "POST /v1/tokens", "Makes a token for a user or a device, and shows it once.", s.addToken, status(http.StatusCreated))
	add(a, "DELETE /v1/tokens/{id}", "Removes a token.", s.removeToken)
}

// userOf leaves out the secrets.
func userOf(u *device.User) User {
	return User{
		Name: u.Name, Role: u.Role, Groups: list(u.Groups), Disabled: u.Disabled, Password: u.Password != "" || u.SCRAM != nil,
		Created: u.Created, Updated: u.Updated, Rev: uint64(u.Rev),
	}
}

func (s *Server) listUsers(_ context.Context, in *pageIn) (*answer[List[User]], error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	found, next, err := r.Users(device.Page{After: in.After, Limit: in.Limit})
	if err != nil {
		return nil, s.fault(err)
	}
	return yes(listOf(found, next, userOf))
}

func (s *Server) showUser(ctx context.Context, in *nameIn) (*answer[User], error) {
	u, err := s.userAt(ctx, in.Name, 0)
	if err != nil {
		return nil, err
	}
	return yes(userOf(&u))
}

// userAt is a user that has the revision, if one is given.
func (s *Server) userAt(ctx context.Context, name string, rev uint64) (device.User, error) {
	r, err := s.registry()
	if err != nil {
		return device.User{}, err
	}
	if err := (&device.User{Name: name}).Check(); err != nil {
		return device.User{}, invalid(err)
	}
	u, err := r.ShowUser(ctx, name)
	if err == nil && rev != 0 && uint64(u.Rev) != rev {
		err = fmt.Errorf("user %s: revision %d, expected %d: %w", name, u.Rev, rev, device.ErrChanged)
	}
	if err != nil {
		return device.User{}, s.fault(err)
	}
	return u, nil
}

func (s *Server) addUser(ctx context.Context, in *struct{ Body UserSpec }) (*answer[User], error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	u := device.User{Name: in.Body.Name, Role: in.Body.Role, Groups: unique(in.Body.Groups)}
	if err := cmp.Or(givenGroups(u.Groups), u.Check()); err != nil {
		return nil, invalid(err)
	}
	if err := setPassword(&u, in.Body.Password); err != nil {
		return nil, err
	}
	if _, err := r.ShowUser(ctx, u.Name); !errors.Is(err, device.ErrNotFound) {
		return nil, s.fault(cmp.Or(err, fmt.Errorf("user %s: %w", u.Name, device.ErrExists)))
	}
	err = s.act(ctx, deed{action: "user.add", object: u.Name, after: u}, func(ctx context.Context) (err error) {
		u, err = r.AddUser(ctx, u)
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(userOf(&u))
}

// setPassword gives a user what is kept of a password; empty: nothing.
func setPassword(u *device.User, password string) error {
	u.Password, u.SCRAM = "", nil
	if password == "" {
		return nil
	}
	if n := len([]rune(password)); n < passwordRunesMin {
		return invalid(fmt.Errorf("a password of %d characters: expected at least %d", n, passwordRunesMin))
	}
	hash, keys, err := hashed(u.Name, password, false)
	if err != nil {
		return err
	}
	u.Password, u.SCRAM = hash, (*device.SCRAM)(keys)
	return nil
}

// passwordRunesMin is how short a password may be that a person has chosen.
const passwordRunesMin = 8

func (s *Server) setUser(ctx context.Context, in *nameBodyIn[UserPatch]) (*answer[User], error) {
	old, err := s.userAt(ctx, in.Name, in.Body.Rev)
	if err != nil {
		return nil, err
	}
	now, err := patched(old, &in.Body)
	if err != nil {
		return nil, err
	}
	err = s.act(ctx, deed{action: "user.set", object: in.Name, before: old, after: now}, func(ctx context.Context) (err error) {
		now, err = s.o.Registry.UpdateUser(ctx, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(userOf(&now))
}

// patched is a user as a patch wants it.
func patched(u device.User, p *UserPatch) (device.User, error) {
	if p.Role != nil {
		u.Role = *p.Role
	}
	if p.Disabled != nil {
		u.Disabled = *p.Disabled
	}
	if p.Groups != nil {
		u.Groups = unique(*p.Groups)
		if err := givenGroups(u.Groups); err != nil {
			return u, invalid(err)
		}
	}
	if p.Password != nil {
		if err := setPassword(&u, *p.Password); err != nil {
			return u, err
		}
	}
	return u, invalid(u.Check())
}

// nameRevIn is what a path names, and the revision that somebody has read.
type nameRevIn struct {
	Name string `path:"name" maxLength:"128"`
	Rev  uint64 `query:"rev" doc:"The revision that was read. Absent: whichever it is."`
}

func (s *Server) removeUser(ctx context.Context, in *nameRevIn) (*done, error) {
	old, err := s.userAt(ctx, in.Name, in.Rev)
	if err != nil {
		return nil, err
	}
	return s.remove(ctx, deed{action: "user.remove", object: in.Name, before: old}, func(ctx context.Context) error {
		return s.o.Registry.RemoveUser(ctx, in.Name, store.Rev(in.Rev))
	})
}

// remove is an act whose answer says nothing but yes.
func (s *Server) remove(ctx context.Context, d deed, do func(ctx context.Context) error) (*done, error) {
	if err := s.act(ctx, d, do); err != nil {
		return nil, err
	}
	return new(done), nil
}

func groupOf(g *device.Group) Group {
	return Group{Name: g.Name, About: g.About, Created: g.Created, Updated: g.Updated, Rev: uint64(g.Rev)}
}

func (s *Server) listGroups(_ context.Context, in *pageIn) (*answer[List[Group]], error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	found, next, err := r.Groups(device.Page{After: in.After, Limit: in.Limit})
	if err != nil {
		return nil, s.fault(err)
	}
	return yes(listOf(found, next, groupOf))
}

func (s *Server) addGroup(ctx context.Context, in *struct{ Body GroupSpec }) (*answer[Group], error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	g := device.Group{Name: in.Body.Name, About: in.Body.About}
	if err := cmp.Or(givenGroups([]string{g.Name}), g.Check()); err != nil {
		return nil, invalid(err)
	}
	err = s.act(ctx, deed{action: "group.add", object: g.Name, after: g}, func(ctx context.Context) (err error) {
		g, err = r.AddGroup(ctx, g)
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(groupOf(&g))
}

func (s *Server) removeGroup(ctx context.Context, in *nameRevIn) (*done, error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	if err := (&device.Group{Name: in.Name}).Check(); err != nil {
		return nil, invalid(err)
	}
	old, err := r.ShowGroup(ctx, in.Name)
	if err != nil {
		return nil, s.fault(err)
	}
	return s.remove(ctx, deed{action: "group.remove", object: in.Name, before: old}, func(ctx context.Context) error {
		return r.RemoveGroup(ctx, in.Name, store.Rev(in.Rev))
	})
}

func tokenOf(t *device.Token) Token {
	return Token{ID: t.ID, Device: t.Device, User: t.User, About: t.About, Expires: some(t.Expires), Created: t.Created}
}

func (s *Server) listTokens(_ context.Context, in *pageIn) (*answer[List[Token]], error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	found, next, err := r.Tokens(device.Page{After: in.After, Limit: in.Limit})
	if err != nil {
		return nil, s.fault(err)
	}
	return yes(listOf(found, next, tokenOf))
}

func (s *Server) addToken(ctx context.Context, in *struct{ Body TokenSpec }) (*answer[IssuedToken], error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	spec := &in.Body
	if (spec.Device == "") == (spec.User == "") {
		return nil, invalid(errors.New("expected either a device or a user that the token is to stand for"))
	}
	t := device.Token{Device: spec.Device, User: spec.User, About: spec.About}
	if spec.Expires != nil {
		t.Expires = *spec.Expires
	}
	var out IssuedToken
	// The entry has no id yet: what is made is told apart by whom it is for.
	err = s.act(ctx, deed{action: "token.add", object: cmp.Or(t.Device, t.User), after: spec}, func(ctx context.Context) error {
		text, made, err := r.AddToken(ctx, t)
		out = IssuedToken{Token: tokenOf(&made), Text: string(text)}
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(out)
}

func (s *Server) removeToken(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"128" pattern:"^[a-z0-9]+$" doc:"Of the token: what is between fl_ and the second _."`
}) (*done, error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	t, ok := r.Token(in.ID)
	if !ok {
		return nil, s.fault(fmt.Errorf("token %s: %w", in.ID, device.ErrNotFound))
	}
	before := TokenSpec{Device: t.Device, User: t.User, Expires: some(t.Expires)}
	return s.remove(ctx, deed{action: "token.remove", object: in.ID, before: before}, func(ctx context.Context) error {
		return r.RemoveToken(ctx, in.ID)
	})
}
