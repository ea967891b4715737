package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Mapping says what the claims of a token mean here. A claim is found by its whole
// name first ("https://example.com/groups"), then as a path through objects
// ("realm_access.roles").
type Mapping struct {
	Device string            // claim with the device's name; empty: none
	User   string            // claim with the user's name; empty: none
	Groups string            // claim with a group or a list of groups; empty: none
	Attrs  map[string]string // attribute to claim; a claim that is missing gives no attribute
	// Only are the groups that a token may give; others are left out. nil: all but
	// viewer, operator and admin, which must be named here to be given.
	Only []string
}

// subject is whom somebody else's word is about.
type subject struct {
	device, user string
	groups       []string
	attrs        map[string]string
}

// apply reads the claims of a token that has been verified. Claims are a stranger's
// values even so: whatever has another form than the Mapping expects is an error.
func (m *Mapping) apply(claims map[string]any) (*subject, error) {
	s := new(subject)
	var err error
	if s.device, err = textClaim(claims, m.Device); err != nil {
		return nil, err
	}
	if s.user, err = textClaim(claims, m.User); err != nil {
		return nil, err
	}
	if s.groups, err = listClaim(claims, m.Groups); err != nil {
		return nil, err
	}
	for attr, claim := range m.Attrs {
		v, ok := find(claims, claim)
		if !ok {
			continue
		}
		text, err := scalar(v)
		if err != nil {
			return nil, fmt.Errorf("claim %q: %w", claim, err)
		}
		if s.attrs == nil {
			s.attrs = make(map[string]string)
		}
		s.attrs[attr] = text
	}
	if s.device == "" && s.user == "" {
		return nil, errors.New("it names neither a device nor a user")
	}
	s.groups = grantable(s.groups, m.Only)
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

// find looks for a claim by its name, or by a path of names.
func find(claims map[string]any, path string) (any, bool) {
	if v, ok := claims[path]; ok {
		return v, true
	}
	first, rest, ok := strings.Cut(path, ".")
	if !ok {
		return nil, false
	}
	inner, ok := claims[first].(map[string]any)
	if !ok {
		return nil, false
	}
	return find(inner, rest)
}

func textClaim(claims map[string]any, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	v, ok := find(claims, path)
	if !ok {
		return "", nil
	}
	text, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("%q is a %s: expected text", path, kind(v))
	}
	return text, nil
}

func listClaim(claims map[string]any, path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	v, ok := find(claims, path)
	if !ok {
		return nil, nil
	}
	if text, ok := v.(string); ok {
		return []string{text}, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%q is a %s: expected text or a list of texts", path, kind(v))
	}
	texts := make([]string, 0, len(list))
	for _, v := range list {
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%q has a %s in its list: expected text", path, kind(v))
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// scalar is a value as the text of an attribute.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("a %s: expected text, a number, true or false", kind(v))
}

// kind names the JSON type of a decoded value.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "text"
	case json.Number, float64:
		return "number"
	case bool:
		return "boolean"
	case []any:
		return "list"
	}
	return "object"
}

// grantable leaves out the groups that somebody else's word can't give.
func grantable(groups, only []string) []string {
	return slices.DeleteFunc(groups, func(g string) bool {
		if only != nil {
			return !slices.Contains(only, g)
		}
		return g == RoleViewer || g == RoleOperator || g == RoleAdmin
	})
}

// check refuses names and values that can't be.
func (s *subject) check() error {
	if s.device != "" {
		if err := checkDevice(s.device); err != nil {
			return err
		}
	}
	if s.user != "" {
		if err := checkName("user", s.user); err != nil {
			return err
		}
	}
	if len(s.groups) > groupsMax || len(s.attrs) > attrsMax {
		return fmt.Errorf("%d groups and %d attributes: expected at most %d and %d", len(s.groups), len(s.attrs), groupsMax, attrsMax)
	}
	for _, g := range s.groups {
		if err := checkName("group", g); err != nil {
			return err
		}
	}
	for k, v := range s.attrs {
		if err := checkName("attribute", k); err != nil {
			return err
		}
		if err := checkValue(fmt.Sprintf("attribute %q", k), v); err != nil {
			return err
		}
	}
	return nil
}
