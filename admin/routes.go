package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"fairlead/access"
)

// A right is what a route asks of its caller.
type right struct {
	needs role
	// action names the route, in the audit log and in the OpenAPI document.
	action string
}

// rights is every route, and who may use it. What has no line here can't be reached.
//
// Viewers only look, and so have no route that isn't a GET, not even the questions that
// are asked by POST. Operators do the daily work. What could give somebody more rights
// than it has is left to admins: users, tokens, policies, and a backup, which holds all
// of them.
var rights = map[string]right{
	"GET /v1/status":       {viewer, "status.show"},
	"GET /v1/openapi.json": {viewer, "api.describe"},
	"GET /v1/doctor":       {viewer, "doctor.show"},
	"POST /v1/backup":      {admin, "backup.make"},
	"GET /v1/mqtt":         {local, "mqtt.connect"},

	"GET /v1/devices":                                 {viewer, "device.list"},
	"POST /v1/devices":                                {operator, "device.add"},
	"GET /v1/devices/{name}":                          {viewer, "device.show"},
	"PATCH /v1/devices/{name}":                        {operator, "device.set"},
	"POST /v1/devices/{name}/suspend":                 {operator, "device.suspend"},
	"POST /v1/devices/{name}/resume":                  {operator, "device.resume"},
	"POST /v1/devices/{name}/retire":                  {operator, "device.retire"},
	"POST /v1/devices/{name}/certificates":            {operator, "certificate.issue"},
	"DELETE /v1/devices/{name}/certificates/{serial}": {operator, "certificate.revoke"},
	"PUT /v1/devices/{name}/password":                 {operator, "device.password"},
	"DELETE /v1/devices/{name}/password":              {operator, "device.nopassword"},

	"GET /v1/users":           {viewer, "user.list"},
	"POST /v1/users":          {admin, "user.add"},
	"GET /v1/users/{name}":    {viewer, "user.show"},
	"PATCH /v1/users/{name}":  {admin, "user.set"},
	"DELETE /v1/users/{name}": {admin, "user.remove"},

	"GET /v1/groups":           {viewer, "group.list"},
	"POST /v1/groups":          {operator, "group.add"},
	"DELETE /v1/groups/{name}": {operator, "group.remove"},

	"GET /v1/tokens":         {viewer, "token.list"},
	"POST /v1/tokens":        {admin, "token.add"},
	"DELETE /v1/tokens/{id}": {admin, "token.remove"},

	"GET /v1/policies":                       {viewer, "policy.list"},
	"GET /v1/policies/{name}":                {viewer, "policy.show"},
	"PUT /v1/policies/{name}":                {admin, "policy.apply"},
	"DELETE /v1/policies/{name}":             {admin, "policy.remove"},
	"POST /v1/policies/check":                {operator, "policy.check"},
	"POST /v1/policies/diff":                 {operator, "policy.diff"},
	"GET /v1/policies/blast-radius":          {viewer, "policy.rank"},
	"GET /v1/policies/blast-radius/{device}": {viewer, "policy.blast"},
	"GET /v1/policies/suggest/{device}":      {viewer, "policy.suggest"},

	"GET /v1/ca":          {viewer, "ca.show"},
	"GET /v1/ca/root.pem": {viewer, "ca.root"},
	"GET /v1/ca/crl.pem":  {viewer, "ca.crl"},

	"GET /v1/audit":         {viewer, "audit.list"},
	"POST /v1/audit/verify": {operator, "audit.verify"},

	"GET /v1/clients":                  {viewer, "client.list"},
	"POST /v1/clients/{id}/disconnect": {operator, "client.disconnect"},
}

// humaTime is what huma gives a request for its body, counted from when it begins to
// read: within has been earlier. Huma can't be told to leave the deadline alone.
const humaTime = bodyTime

const (
	bodyBytes = 64 << 10 // of a request, where nothing else is said
	restBytes = 8 << 20  // that are read of a body nobody wants
	// textBytes is for those that hold a document of policies: huma refuses what has
	// exactly the limit.
	textBytes = access.TextMax + 1
	// questionBytes is for a document within JSON.
	questionBytes = 2*access.TextMax + bodyBytes
)

// guard lets a request through to its route if its sender may use it.
func (s *Server) guard(who identify) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store") // answers may hold a new key
		w.Header().Set("X-Content-Type-Options", "nosniff")
		r, err := within(w, r)
		if err != nil {
			s.o.Logger.Debug("a connection without deadlines", "err", err)
			return
		}
		c, p := who(r)
		if p != nil {
			if p.Status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			refuse(w, p.Status, p)
			return
		}
		_, pattern := s.mux.Handler(r)
		needs, known := rights[pattern]
		if !known {
			s.unknown(w, r)
			return
		}
		if c.role < needs.needs {
			s.refused(c.entry(needs.action, r.URL.Path), "the role "+c.role.String()+" may not do that")
			refuse(w, http.StatusForbidden, forbidden(c.role, needs))
			return
		}
		s.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
		if r.ContentLength != 0 {
			// Or who still sends a body that was too large sees a broken connection in
			// the place of the answer. How much there was does not matter any more.
			_, _ = io.CopyN(io.Discard, r.Body, restBytes)
		}
	})
}

func forbidden(has role, needs right) error {
	if needs.needs == local {
		return fmt.Errorf("%s: only over %s", needs.action, Socket)
	}
	return fmt.Errorf("%s: the role %s may not do that, expected %s", needs.action, has, needs.needs)
}

// unknown answers where there is no such route.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	var methods []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); rights[pattern].needs != nobody {
			methods = append(methods, method)
		}
	}
	if methods != nil {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		refuse(w, http.StatusMethodNotAllowed, fmt.Errorf("%.20s: expected %s", r.Method, strings.Join(methods, " or ")))
		return
	}
	refuse(w, http.StatusNotFound, errors.New("there is nothing at this path; GET /v1/openapi.json describes what there is"))
}

// within gives a request the time that it has, whoever sends it: for its body, also one
// that nobody reads, and for the answer.
func within(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	control := http.NewResponseController(w)
	if err := control.SetWriteDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	if r.Body == http.NoBody {
		return r, nil
	}
	if err := control.SetReadDeadline(time.Now().Add(bodyTime)); err != nil {
		return nil, err
	}
	r = r.WithContext(r.Context()) // a copy
	r.Body = &body{ReadCloser: http.MaxBytesReader(w, r.Body, questionBytes), control: control}
	return r, nil
}

// body is the body of a request. Once it is read its deadline is over: the server goes
// on reading, to notice when the caller leaves.
type body struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		if e := b.control.SetReadDeadline(time.Time{}); e != nil {
			return n, e
		}
	}
	return n, err
}

// api is where routes are registered.
type api struct {
	huma.API
	mux        *http.ServeMux
	registered map[string]bool // by pattern
}

// routes makes mux and document.
func (s *Server) routes() error {
	s.mux = http.NewServeMux()
	a := &api{mux: s.mux, registered: make(map[string]bool), API: humago.New(s.mux, description())}
	s.deviceRoutes(a)
	s.userRoutes(a)
	s.policyRoutes(a)
	s.caRoutes(a)
	s.auditRoutes(a)
	s.clientRoutes(a)
	s.statusRoutes(a)
	for pattern := range rights {
		if !a.registered[pattern] {
			panic("admin: " + pattern + " has a right and is no route")
		}
	}
	// huma describes its own kind of errors even if nobody returns one.
	maps := a.OpenAPI().Components.Schemas.Map()
	delete(maps, "ErrorModel")
	delete(maps, "ErrorDetail")
	var err error
	s.document, err = json.MarshalIndent(a.OpenAPI(), "", "  ")
	return err
}

// description is the OpenAPI document without its routes.
func description() huma.Config {
	format := huma.DefaultJSONFormat
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Fairlead", Version: "1",
				Description: "Looks after a Fairlead broker: over the Unix socket admin.sock in its data directory, which makes the caller an admin, or over HTTPS, where the caller shows a token or a certificate of a user who has a role. Lists come in parts: ask again with the parameter after as long as an answer has next.",
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token":       {Type: "http", Scheme: "bearer", Description: "A token of a user: fl_..."},
					"certificate": {Type: "mutualTLS", Description: "A certificate of a user."},
				},
			},
			Security: []map[string][]string{{"token": {}}, {"certificate": {}}},
		},
		Formats:       map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{plain},
	}
}

// schemaName names a list after its items.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	if items, ok := strings.CutPrefix(name, "List"); ok && items != "" {
		return items + "List"
	}
	return name
}

// wrongMax is how many things that are wrong with a request an answer lists.
const wrongMax = 10

// plain words huma's errors as ours. What was found is left out: it may be a password.
func plain(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	var wrong []string
	for i, w := range e.Errors {
		if i == wrongMax {
			wrong = append(wrong, fmt.Sprintf("and %d more", len(e.Errors)-i))
			break
		}
		where := ""
		if w.Location != "" {
			where = w.Location + ": "
		}
		wrong = append(wrong, where+w.Message)
	}
	detail := e.Detail
	if wrong != nil {
		detail += ": " + strings.Join(wrong, "; ")
	}
	return problem(e.Status, errors.New(detail)), nil
}

// operation begins the description of a route.
func (a *api) operation(pattern, about string) huma.Operation {
	needs, ok := rights[pattern]
	if !ok || a.registered[pattern] {
		panic("admin: " + pattern + ": expected it once, and with a right")
	}
	a.registered[pattern] = true
	method, path, _ := strings.Cut(pattern, " ")
	noun, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
	op := huma.Operation{
		OperationID: needs.action, Method: method, Path: path, Summary: about, Tags: []string{noun},
		Description:  "Needs the role " + needs.needs.String() + ".",
		MaxBodyBytes: bodyBytes, BodyReadTimeout: humaTime,
		RejectUnknownQueryParameters: true,
		Responses:                    map[string]*huma.Response{"default": a.problem()},
	}
	if needs.needs == local {
		op.Description = "Only over " + Socket + "."
	}
	return op
}

func (a *api) problem() *huma.Response {
	schema := a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "")
	return &huma.Response{
		Description: "Refused, or failed.",
		Content:     map[string]*huma.MediaType{problemType: {Schema: schema}},
	}
}

// add registers a route that takes and gives what huma can describe.
func add[I, O any](a *api, pattern, about string, h func(context.Context, *I) (*O, error), more ...func(*huma.Operation)) {
	op := a.operation(pattern, about)
	for _, f := range more {
		f(&op)
	}
	huma.Register(a, op, h)
}

// addRaw registers a route that writes its answer by itself. The answers are those
// beside problems, by status: content type, and description.
func (a *api) addRaw(pattern, about string, h http.HandlerFunc, status, contentType, answer string, params ...*huma.Param) {
	op := a.operation(pattern, about)
	op.Parameters = params
	r := &huma.Response{Description: answer}
	if contentType != "" {
		r.Content = map[string]*huma.MediaType{contentType: {}}
	}
	op.Responses[status] = r
	a.OpenAPI().AddOperation(&op)
	a.mux.HandleFunc(pattern, h)
}

// bytesMost sets how long the body of a request may be.
func bytesMost(n int64) func(*huma.Operation) {
	return func(op *huma.Operation) { op.MaxBodyBytes = n }
}

// status is that of an answer that says yes.
func status(code int) func(*huma.Operation) {
	return func(op *huma.Operation) { op.DefaultStatus = code }
}

// answer is a JSON answer.
type answer[T any] struct{ Body T }

func yes[T any](v T) (*answer[T], error) { return &answer[T]{v}, nil }

// done is an answer that says nothing but yes.
type done struct{}

// pageIn are the parameters of a list.
type pageIn struct {
	After string `query:"after" maxLength:"65535" doc:"Go on behind this item: next of the part before."`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many items at most."`
}

// part cuts a part out of a list that is in the order of its keys.
func part[T any](all []T, p pageIn, key func(T) string) List[T] {
	from := 0
	if p.After != "" {
		i, found := slices.BinarySearchFunc(all, p.After, func(item T, after string) int { return strings.Compare(key(item), after) })
		from = i
		if found {
			from++
		}
	}
	l := List[T]{Items: list(all[from:])}
	if len(l.Items) > p.Limit {
		l.Items = l.Items[:p.Limit]
		l.Next = key(l.Items[p.Limit-1])
	}
	return l
}
