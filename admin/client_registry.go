package admin

import (
	"context"
	"net/http"
	"strconv"
)

// Devices lists devices in the order of their names.
func (c *Client) Devices(ctx context.Context, f DeviceFilter, p Page) (*List[Device], error) {
	q := p.add(query("prefix", f.Prefix, "group", f.Group, "state", f.State))
	for key, value := range f.Attrs {
		q.Set(attrPrefix+key, value)
	}
	return ask[List[Device]](ctx, c, call{method: http.MethodGet, path: at("devices"), query: q})
}

// Device asks for one device.
func (c *Client) Device(ctx context.Context, name string) (*Device, error) {
	return ask[Device](ctx, c, call{method: http.MethodGet, path: at("devices", name)})
}

// AddDevice adds a device and has a certificate made for it.
func (c *Client) AddDevice(ctx context.Context, d DeviceSpec) (*Issued, error) {
	return ask[Issued](ctx, c, call{method: http.MethodPost, path: at("devices"), body: d})
}

// UpdateDevice changes groups and attributes.
func (c *Client) UpdateDevice(ctx context.Context, name string, p DevicePatch) (*Device, error) {
	p.Groups = stated(p.Groups)
	if p.Attrs != nil && *p.Attrs == nil {
		p.Attrs = &map[string]string{}
	}
	return ask[Device](ctx, c, call{method: http.MethodPatch, path: at("devices", name), body: p})
}

// stated makes a list that is nil an empty one, which JSON tells from none.
func stated(l *[]string) *[]string {
	if l != nil && *l == nil {
		return &[]string{}
	}
	return l
}

// SuspendDevice keeps a device out until it is resumed.
func (c *Client) SuspendDevice(ctx context.Context, name string, ch Change) (*Device, error) {
	return ask[Device](ctx, c, call{method: http.MethodPost, path: at("devices", name, "suspend"), body: ch})
}

// ResumeDevice lets a suspended or pending device in again.
func (c *Client) ResumeDevice(ctx context.Context, name string, ch Change) (*Device, error) {
	return ask[Device](ctx, c, call{method: http.MethodPost, path: at("devices", name, "resume"), body: ch})
}

// RetireDevice keeps a device out for good and revokes its certificates.
func (c *Client) RetireDevice(ctx context.Context, name string, ch Change) (*Device, error) {
	return ask[Device](ctx, c, call{method: http.MethodPost, path: at("devices", name, "retire"), body: ch})
}

// AddCertificate has a further certificate made for a device. The others stay valid.
func (c *Client) AddCertificate(ctx context.Context, name string, s CertificateSpec) (*Issued, error) {
	return ask[Issued](ctx, c, call{method: http.MethodPost, path: at("devices", name, "certificates"), body: s})
}

// RevokeCertificate makes a certificate of a device invalid.
func (c *Client) RevokeCertificate(ctx context.Context, name, serial, reason string) (*Device, error) {
	return ask[Device](ctx, c, call{method: http.MethodDelete, path: at("devices", name, "certificates", serial), query: query("reason", reason)})
}

// SetDevicePassword sets a device's password. The answer has it only if it was
// generated.
func (c *Client) SetDevicePassword(ctx context.Context, name string, s PasswordSpec) (*Password, error) {
	return ask[Password](ctx, c, call{method: http.MethodPut, path: at("devices", name, "password"), body: s})
}

// RemoveDevicePassword closes the way in by password.
func (c *Client) RemoveDevicePassword(ctx context.Context, name string) error {
	return c.tell(ctx, call{method: http.MethodDelete, path: at("devices", name, "password")})
}

// Users lists users in the order of their names.
func (c *Client) Users(ctx context.Context, p Page) (*List[User], error) {
	return ask[List[User]](ctx, c, call{method: http.MethodGet, path: at("users"), query: p.add(query())})
}

// User asks for one user.
func (c *Client) User(ctx context.Context, name string) (*User, error) {
	return ask[User](ctx, c, call{method: http.MethodGet, path: at("users", name)})
}

// AddUser adds a user.
func (c *Client) AddUser(ctx context.Context, u UserSpec) (*User, error) {
	return ask[User](ctx, c, call{method: http.MethodPost, path: at("users"), body: u})
}

// UpdateUser changes a user.
func (c *Client) UpdateUser(ctx context.Context, name string, p UserPatch) (*User, error) {
	p.Groups = stated(p.Groups)
	return ask[User](ctx, c, call{method: http.MethodPatch, path: at("users", name), body: p})
}

// RemoveUser removes a user that has the revision rev; 0: any.
func (c *Client) RemoveUser(ctx context.Context, name string, rev uint64) error {
	return c.tell(ctx, call{method: http.MethodDelete, path: at("users", name), query: query("rev", number(rev))})
}

// Groups lists groups in the order of their names.
func (c *Client) Groups(ctx context.Context, p Page) (*List[Group], error) {
	return ask[List[Group]](ctx, c, call{method: http.MethodGet, path: at("groups"), query: p.add(query())})
}

// AddGroup adds a group.
func (c *Client) AddGroup(ctx context.Context, g GroupSpec) (*Group, error) {
	return ask[Group](ctx, c, call{method: http.MethodPost, path: at("groups"), body: g})
}

// RemoveGroup removes a group without members that has the revision rev; 0: any.
func (c *Client) RemoveGroup(ctx context.Context, name string, rev uint64) error {
	return c.tell(ctx, call{method: http.MethodDelete, path: at("groups", name), query: query("rev", number(rev))})
}

// Tokens lists tokens in the order of their ids.
func (c *Client) Tokens(ctx context.Context, p Page) (*List[Token], error) {
	return ask[List[Token]](ctx, c, call{method: http.MethodGet, path: at("tokens"), query: p.add(query())})
}

// AddToken makes a token. Its text is shown in the answer and not kept.
func (c *Client) AddToken(ctx context.Context, s TokenSpec) (*IssuedToken, error) {
	return ask[IssuedToken](ctx, c, call{method: http.MethodPost, path: at("tokens"), body: s})
}

// RemoveToken removes a token. From then on it is worth nothing.
func (c *Client) RemoveToken(ctx context.Context, id string) error {
	return c.tell(ctx, call{method: http.MethodDelete, path: at("tokens", id)})
}

// Clients lists the clients that the broker knows, in the order of their Client
// Identifiers.
func (c *Client) Clients(ctx context.Context, f ClientFilter, p Page) (*List[ClientInfo], error) {
	q := p.add(query("prefix", f.Prefix, "device", f.Device, "user", f.User))
	if f.Connected != nil {
		q.Set("connected", strconv.FormatBool(*f.Connected))
	}
	return ask[List[ClientInfo]](ctx, c, call{method: http.MethodGet, path: at("clients"), query: q})
}

// DisconnectClient ends the connection of a client. It may come back.
func (c *Client) DisconnectClient(ctx context.Context, client, reason string) error {
	return c.tell(ctx, call{method: http.MethodPost, path: at("clients", client, "disconnect"), body: Change{Reason: reason}})
}
