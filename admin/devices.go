package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/ca"
	"fairlead/device"
	"fairlead/store"
)

func (s *Server) deviceRoutes(a *api) {
	anyAttr := func(op *huma.Operation) { op.RejectUnknownQueryParameters = false } // deviceQuery sees to that
	add(a, "GET /v1/devices", "Lists devices, in the order of their names.", s.listDevices, anyAttr)
	add(a, "POST /v1/devices", "Adds a device, and issues a certificate for it.", s.addDevice, status(http.StatusCreated))
	add(a, "GET /v1/devices/{name}", "Shows a device.", s.showDevice)
	add(a, "PATCH /v1/devices/{name}", "Changes groups and attributes of a device.", s.setDevice)
	add(a, "POST /v1/devices/{name}/suspend", "Keeps a device out until it is resumed.", s.suspendDevice)
	add(a, "POST /v1/devices/{name}/resume", "Lets a suspended or pending device in.", s.resumeDevice)
	add(a, "POST /v1/devices/{name}/retire", "Keeps a device out for good, and revokes its certificates.", s.retireDevice)
	add(a, "POST /v1/devices/{name}/certificates", "Issues a further certificate for a device.", s.issueCertificate, status(http.StatusCreated))
	add(a, "DELETE /v1/devices/{name}/certificates/{serial}", "Revokes a certificate of a device.", s.revokeCertificate)
	add(a, "PUT /v1/devices/{name}/password", "Sets the password of a device.", s.setDevicePassword)
	add(a, "DELETE /v1/devices/{name}/password", "Removes the password of a device.", s.removeDevicePassword)
}

// nameIn is what a path names. Huma passes over embedded types that are not exported, so
// this is not part of others.
type nameIn struct {
	Name string `path:"name" maxLength:"128"`
}

// nameBodyIn is what a path names, and a body.
type nameBodyIn[B any] struct {
	Name string `path:"name" maxLength:"128"`
	Body B
}

// deviceQuery are the parameters of a list of devices.
type deviceQuery struct {
	After  string `query:"after" maxLength:"128" doc:"Go on behind this item: next of the part before."`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many items at most."`
	Prefix string `query:"prefix" maxLength:"128" doc:"Devices whose names begin so."`
	Group  string `query:"group" maxLength:"128" doc:"Devices in this group."`
	State  string `query:"state" enum:"pending,active,suspended,retired" doc:"Devices in this state."`

	attrs map[string]string
}

// Resolve takes the parameters attr.KEY=VALUE, which huma has no word for, and refuses
// unknown ones.
func (q *deviceQuery) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	q.attrs = make(map[string]string)
	for name, values := range u.Query() {
		if slices.Contains([]string{"after", "limit", "prefix", "group", "state"}, name) {
			continue
		}
		key, ok := strings.CutPrefix(name, attrPrefix)
		if !ok || key == "" || len(values) != 1 {
			return []error{&huma.ErrorDetail{Location: "query." + name, Message: "unknown, or given twice: expected prefix, group, state, " + attrPrefix + "KEY, after or limit"}}
		}
		q.attrs[key] = values[0]
	}
	return nil
}

func (s *Server) listDevices(_ context.Context, q *deviceQuery) (*answer[List[Device]], error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	f := device.Filter{Prefix: q.Prefix, Group: q.Group, State: auth.State(q.State), Attrs: q.attrs}
	found, next, err := r.Devices(f, device.Page{After: q.After, Limit: q.Limit})
	if err != nil {
		return nil, s.fault(err)
	}
	return yes(listOf(found, next, deviceOf))
}

// registry is the registry, or why there is none.
func (s *Server) registry() (*device.Registry, error) {
	if s.o.Registry == nil {
		return nil, absent("registry of devices and users")
	}
	return s.o.Registry, nil
}

func (s *Server) authority() (CA, error) {
	if s.o.CA == nil {
		return nil, absent("CA of its own")
	}
	return s.o.CA, nil
}

// listOf makes a part of a list.
func listOf[F, T any](found []F, next string, of func(*F) T) List[T] {
	l := List[T]{Items: make([]T, 0, len(found)), Next: next}
	for i := range found {
		l.Items = append(l.Items, of(&found[i]))
	}
	return l
}

// deviceOf leaves out the secrets.
func deviceOf(d *device.Device) Device {
	out := Device{
		Name: d.Name, State: string(d.State), Groups: list(d.Groups), Attrs: d.Attrs, Certificates: make([]Certificate, 0, len(d.Certificates)),
		Password: d.Password != "" || d.SCRAM != nil, Created: d.Created, Updated: d.Updated, Rev: uint64(d.Rev),
	}
	if out.Attrs == nil {
		out.Attrs = map[string]string{}
	}
	for _, c := range d.Certificates {
		out.Certificates = append(out.Certificates, Certificate{
			Serial: string(c.Serial), NotAfter: c.NotAfter, Fingerprint: c.Fingerprint.String(), Revoked: some(c.Revoked), Reason: c.Reason,
		})
	}
	return out
}

func (s *Server) showDevice(ctx context.Context, in *nameIn) (*answer[Device], error) {
	d, err := s.deviceAt(ctx, in.Name, 0)
	if err != nil {
		return nil, err
	}
	return yes(deviceOf(&d))
}

// givenGroups refuses groups that only a role gives: policies may grant much to them.
func givenGroups(groups []string) error {
	for _, g := range groups {
		if roles[g] != nobody {
			return fmt.Errorf("group %q: that is a role, which only users have: expected another group", g)
		}
	}
	return nil
}

func (s *Server) addDevice(ctx context.Context, in *struct{ Body DeviceSpec }) (*answer[Issued], error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	spec := &in.Body
	d := device.Device{Name: spec.Name, State: auth.Active, Groups: unique(spec.Groups), Attrs: spec.Attrs}
	if err := cmp.Or(givenGroups(d.Groups), d.Check()); err != nil {
		return nil, invalid(err)
	}
	if spec.NoCertificate && (spec.CSR != "" || spec.Days != 0) {
		return nil, invalid(errors.New("no_certificate with csr or days: expected no_certificate alone"))
	}
	if !spec.NoCertificate && s.o.CA == nil {
		return nil, absent("CA of its own: add the device with no_certificate")
	}
	if err := addable(ctx, r, d.Name, spec.Again); err != nil {
		return nil, s.fault(err)
	}
	out := new(Issued)
	err = s.act(ctx, deed{action: "device.add", object: d.Name, after: d}, func(ctx context.Context) error {
		if !spec.NoCertificate {
			made, b, err := s.issue(d.Name, spec.CSR, spec.Days)
			if err != nil {
				return err
			}
			d.Certificates, out.Bundle = []device.Certificate{made}, b
		}
		added, err := r.Add(ctx, d, device.AddOptions{Again: spec.Again})
		out.Device = deviceOf(&added)
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(*out)
}

// addable says early why a device can't be added, before the audit log is written and a
// key is made. Add looks again.
func addable(ctx context.Context, r *device.Registry, name string, again bool) error {
	old, err := r.Show(ctx, name)
	switch {
	case errors.Is(err, device.ErrNotFound):
		return nil
	case err != nil:
		return err
	case old.State == auth.Retired && !again:
		return fmt.Errorf("device %s: %w, and its name is kept; with again another device gets it", name, device.ErrRetired)
	case old.State == auth.Retired:
		return nil
	}
	return fmt.Errorf("device %s: %w", name, device.ErrExists)
}

// unique puts groups in order, each once.
func unique(groups []string) []string { return slices.Compact(slices.Sorted(slices.Values(groups))) }

const day = 24 * time.Hour

// issue has the CA make a certificate, and a key unless there is a request. Nothing is
// known of it yet.
func (s *Server) issue(name, csr string, days int) (device.Certificate, *Bundle, error) {
	o := ca.DeviceOptions{Validity: time.Duration(days) * day}
	var made ca.Bundle
	var err error
	if csr == "" {
		made, err = s.o.CA.IssueDevice(name, o)
	} else if made.Certificate, err = s.o.CA.SignCSR(name, []byte(csr), o); err != nil {
		err = invalid(fmt.Errorf("csr: %w", err))
	}
	if err != nil {
		return device.Certificate{}, nil, err
	}
	block, _ := pem.Decode(made.Chain)
	if block == nil {
		return device.Certificate{}, nil, errors.New("the CA's certificate is no PEM")
	}
	b := &Bundle{Key: string(made.Key), Cert: string(made.Chain), CA: string(made.Root), Serial: string(made.Serial), URLs: []string{}}
	if s.o.URLs != nil {
		b.URLs = list(s.o.URLs())
	}
	return device.Certificate{Serial: made.Serial, NotAfter: made.NotAfter, Fingerprint: audit.Hash(sha256.Sum256(block.Bytes))}, b, nil
}

func (s *Server) setDevice(ctx context.Context, in *nameBodyIn[DevicePatch]) (*answer[Device], error) {
	old, err := s.deviceAt(ctx, in.Name, in.Body.Rev)
	if err != nil {
		return nil, err
	}
	now := old
	if in.Body.Groups != nil {
		now.Groups = unique(*in.Body.Groups)
		if err := givenGroups(now.Groups); err != nil {
			return nil, invalid(err)
		}
	}
	if in.Body.Attrs != nil {
		now.Attrs = maps.Clone(*in.Body.Attrs)
	}
	if err := now.Check(); err != nil {
		return nil, invalid(err)
	}
	return s.deviceAct(ctx, deed{action: "device.set", object: in.Name, before: old, after: now}, func(ctx context.Context) (device.Device, error) {
		return s.o.Registry.Update(ctx, now)
	})
}

// deviceAt is a device that has the revision, if one is given.
func (s *Server) deviceAt(ctx context.Context, name string, rev uint64) (device.Device, error) {
	r, err := s.registry()
	if err != nil {
		return device.Device{}, err
	}
	if err := ca.ValidName(name); err != nil {
		return device.Device{}, invalid(err)
	}
	d, err := r.Show(ctx, name)
	if err == nil && rev != 0 && uint64(d.Rev) != rev {
		err = fmt.Errorf("device %s: revision %d, expected %d: %w", name, d.Rev, rev, device.ErrChanged)
	}
	if err != nil {
		return device.Device{}, s.fault(err)
	}
	return d, nil
}

// deviceAct is an act whose answer is the device as it is then.
func (s *Server) deviceAct(ctx context.Context, d deed, do func(ctx context.Context) (device.Device, error)) (*answer[Device], error) {
	var now device.Device
	err := s.act(ctx, d, func(ctx context.Context) (err error) {
		now, err = do(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(deviceOf(&now))
}

// changeOf is what goes with a change of state, whether or not there is a body.
func changeOf(in *nameBodyIn[*Change]) Change {
	if in.Body == nil {
		return Change{}
	}
	return *in.Body
}

// toState describes a change of state for the audit log.
func toState(action string, in *nameBodyIn[*Change], old *device.Device, to auth.State) deed {
	type state struct {
		State auth.State `json:"state"`
	}
	return deed{action: action, object: in.Name, before: state{old.State}, after: state{to}, reason: changeOf(in).Reason}
}

func (s *Server) suspendDevice(ctx context.Context, in *nameBodyIn[*Change]) (*answer[Device], error) {
	old, err := s.deviceAt(ctx, in.Name, changeOf(in).Rev)
	if err != nil {
		return nil, err
	}
	return s.deviceAct(ctx, toState("device.suspend", in, &old, auth.Suspended), func(ctx context.Context) (device.Device, error) {
		return s.o.Registry.Suspend(ctx, in.Name, store.Rev(changeOf(in).Rev))
	})
}

func (s *Server) resumeDevice(ctx context.Context, in *nameBodyIn[*Change]) (*answer[Device], error) {
	old, err := s.deviceAt(ctx, in.Name, changeOf(in).Rev)
	if err != nil {
		return nil, err
	}
	return s.deviceAct(ctx, toState("device.resume", in, &old, auth.Active), func(ctx context.Context) (device.Device, error) {
		return s.o.Registry.Resume(ctx, in.Name, store.Rev(changeOf(in).Rev))
	})
}

// retireDevice tells the registry first: from then on the device is kept out, and all may
// be done again.
func (s *Server) retireDevice(ctx context.Context, in *nameBodyIn[*Change]) (*answer[Device], error) {
	old, err := s.deviceAt(ctx, in.Name, changeOf(in).Rev)
	if err != nil {
		return nil, err
	}
	return s.deviceAct(ctx, toState("device.retire", in, &old, auth.Retired), func(ctx context.Context) (device.Device, error) {
		d, err := s.o.Registry.Retire(ctx, in.Name, store.Rev(changeOf(in).Rev), changeOf(in).Reason)
		if err != nil {
			return d, err
		}
		return d, s.revokeAtCA(d.Certificates, ca.CessationOfOperation)
	})
}

// revokeAtCA tells the CA of certificates that the registry has as revoked.
func (s *Server) revokeAtCA(certs []device.Certificate, cause ca.Cause) error {
	var list []ca.Revocation
	for _, c := range certs {
		if !c.Revoked.IsZero() {
			list = append(list, ca.Revocation{Serial: c.Serial, Cause: cause, At: c.Revoked, NotAfter: c.NotAfter})
		}
	}
	switch {
	case len(list) == 0:
		return nil
	case s.o.CA == nil:
		return errors.New("the registry has the certificates as revoked, but there is no CA that could revoke them")
	}
	if err := s.o.CA.Revoke(list...); err != nil {
		return fmt.Errorf("the registry has the certificates as revoked, but the CA could not write it down; do it again: %w", err)
	}
	return nil
}

func (s *Server) issueCertificate(ctx context.Context, in *nameBodyIn[*CertificateSpec]) (*answer[Issued], error) {
	if _, err := s.authority(); err != nil {
		return nil, err
	}
	var spec CertificateSpec
	if in.Body != nil {
		spec = *in.Body
	}
	old, err := s.deviceAt(ctx, in.Name, spec.Rev)
	if err != nil {
		return nil, err
	}
	if old.State == auth.Retired {
		return nil, s.fault(fmt.Errorf("device %s: %w", in.Name, device.ErrRetired))
	}
	out := new(Issued)
	err = s.act(ctx, deed{action: "certificate.issue", object: in.Name}, func(ctx context.Context) error {
		made, b, err := s.issue(in.Name, spec.CSR, spec.Days)
		if err != nil {
			return err
		}
		d, err := s.o.Registry.AddCertificate(ctx, in.Name, store.Rev(spec.Rev), made)
		out.Device, out.Bundle = deviceOf(&d), b
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(*out)
}

// revokeCertificate tells the registry first, as retireDevice does.
func (s *Server) revokeCertificate(ctx context.Context, in *struct {
	Name   string `path:"name" maxLength:"128"`
	Serial string `path:"serial" maxLength:"64" doc:"Hexadecimal, also with colons."`
	Reason string `query:"reason" maxLength:"1024" doc:"Why, for the audit log."`
}) (*answer[Device], error) {
	serial, err := ca.ParseSerial(in.Serial)
	if err != nil {
		return nil, invalid(err)
	}
	old, err := s.deviceAt(ctx, in.Name, 0)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(old.Certificates, func(c device.Certificate) bool { return c.Serial == serial })
	if i < 0 {
		return nil, s.fault(fmt.Errorf("device %s: certificate %s: %w", in.Name, serial, device.ErrNotFound))
	}
	d := deed{action: "certificate.revoke", object: in.Name, before: old.Certificates[i], reason: in.Reason}
	return s.deviceAct(ctx, d, func(ctx context.Context) (device.Device, error) {
		now, err := s.o.Registry.RevokeCertificate(ctx, in.Name, 0, serial, in.Reason)
		if err != nil {
			return now, err
		}
		return now, s.revokeAtCA(slices.DeleteFunc(slices.Clone(now.Certificates), func(c device.Certificate) bool { return c.Serial != serial }), ca.PrivilegeWithdrawn)
	})
}

func (s *Server) setDevicePassword(ctx context.Context, in *nameBodyIn[PasswordSpec]) (*answer[Password], error) {
	if in.Body.Generate == (in.Body.Password != "") {
		return nil, invalid(errors.New("expected either password or generate"))
	}
	old, err := s.deviceAt(ctx, in.Name, in.Body.Rev)
	if err != nil {
		return nil, err
	}
	var out Password
	password := in.Body.Password
	if in.Body.Generate {
		password = rand.Text() // 130 bits
		out.Password = password
	}
	hash, keys, err := hashed(in.Name, password, in.Body.Generate)
	if err != nil {
		return nil, err
	}
	now := old
	now.Password, now.SCRAM = hash, (*device.SCRAM)(keys)
	err = s.act(ctx, deed{action: "device.password", object: in.Name, before: old, after: now}, func(ctx context.Context) error {
		_, err := s.o.Registry.SetPassword(ctx, in.Name, store.Rev(in.Body.Rev), hash, keys)
		return err
	})
	if err != nil {
		return nil, err
	}
	return yes(out)
}

// hashed is what is kept of a password: a quick hash is enough for one that is random.
func hashed(name, password string, random bool) (audit.Secret, *auth.SCRAMKeys, error) {
	keys, err := auth.DeriveSCRAM(name, password)
	if err != nil {
		return "", nil, invalid(fmt.Errorf("password: %w", err))
	}
	if random {
		return audit.Secret(auth.HashSecret(password)), keys, nil
	}
	return audit.Secret(auth.HashPassword(password)), keys, nil
}

func (s *Server) removeDevicePassword(ctx context.Context, in *nameIn) (*done, error) {
	old, err := s.deviceAt(ctx, in.Name, 0)
	if err != nil {
		return nil, err
	}
	now := old
	now.Password, now.SCRAM = "", nil
	err = s.act(ctx, deed{action: "device.nopassword", object: in.Name, before: old, after: now}, func(ctx context.Context) error {
		_, err := s.o.Registry.SetPassword(ctx, in.Name, 0, "", nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	return new(done), nil
}
