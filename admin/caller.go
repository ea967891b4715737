package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"fairlead/audit"
	"fairlead/auth"
	"fairlead/listen"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
)

// role is what a caller may do. A greater one may do all that a smaller one may.
type role int

const (
	nobody role = iota
	viewer
	operator
	admin
	local // an admin, by the socket
)

// roles are the names that the registry has for them.
var roles = map[string]role{auth.RoleViewer: viewer, auth.RoleOperator: operator, auth.RoleAdmin: admin}

func (r role) String() string {
	switch r {
	case viewer:
		return auth.RoleViewer
	case operator:
		return auth.RoleOperator
	case admin, local:
		return auth.RoleAdmin
	}
	return ""
}

// caller is who asks.
type caller struct {
	name   string // of the user; over the socket, of the user of the operating system
	role   role
	how    string // how that was shown
	source string // the address it comes from
	uid    int    // over the socket; -1: not known
}

// entry begins an entry of the audit log.
func (c *caller) entry(action, object string) audit.Entry {
	return audit.Entry{Actor: audit.Actor{Name: c.name, Role: c.role.String(), How: c.how}, Source: c.source, Action: action, Object: object}
}

type callerKey struct{}

// callerOf is who asks. It stands in the context because that is all that huma hands on.
func callerOf(ctx context.Context) *caller { return ctx.Value(callerKey{}).(*caller) }

// identify says who sends a request, or why nobody who may does.
type identify func(r *http.Request) (*caller, *Problem)

// How an identity is shown, as the audit log has it.
const (
	howToken       = "token"
	howCertificate = "certificate"
)

// peer notes who has opened the socket.
func (s *Server) peer(ctx context.Context, nc net.Conn) context.Context {
	uid := peerID(nc)
	return context.WithValue(ctx, callerKey{}, &caller{name: s.userName(uid), role: local, how: Socket, source: Socket, uid: uid})
}

func (s *Server) userName(uid int) string {
	if uid < 0 {
		return "unknown"
	}
	if name, ok := s.users.Load(uid); ok {
		return name.(string)
	}
	name := "uid " + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username
	}
	s.users.Store(uid, name) // only the file's owner and root come here: it stays small
	return name
}

// atSocket identifies callers over the socket: the right to open it is the identity.
func (s *Server) atSocket(r *http.Request) (*caller, *Problem) { return callerOf(r.Context()), nil }

// atHTTPS identifies callers over HTTPS, anew with each request: what they show may
// have been withdrawn since the one before.
func (s *Server) atHTTPS(r *http.Request) (*caller, *Problem) {
	if len(r.Header.Values("Cookie")) > 0 {
		return nil, problem(http.StatusBadRequest, errors.New("cookies are no identity here: expected none"))
	}
	// A browser shows a certificate wherever a page sends it.
	if err := s.foreign.Check(r); err != nil {
		return nil, problem(http.StatusForbidden, errors.New("the request comes from a page of another site"))
	}
	switch given := r.Header.Values("Authorization"); {
	case len(given) > 0:
		return s.byToken(r, given)
	case r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		return s.byCertificate(r)
	}
	s.noLogin(&caller{source: r.RemoteAddr}, "neither a token nor a certificate was shown")
	return nil, errWho
}

var errWho = problem(http.StatusUnauthorized, errors.New("who are you? expected Authorization: Bearer TOKEN with the token of a user who has a role, or the certificate of one"))

var errNoRole = problem(http.StatusForbidden, errors.New("only users who have a role may look after the broker"))

// noLogin notes that somebody was not let in.
func (s *Server) noLogin(c *caller, why string) { s.refused(c.entry("api.login", ""), why) }

// byToken asks the registry's tokens. Guessing is slowed, as that of MQTT clients is.
func (s *Server) byToken(r *http.Request, given []string) (*caller, *Problem) {
	scheme, token, _ := strings.Cut(given[0], " ")
	if len(given) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
		s.noLogin(&caller{source: r.RemoteAddr, how: howToken}, "the Authorization is no Bearer token")
		return nil, errWho
	}
	id, verdict := s.tokens.Identify(auth.Credentials{
		Connect: &packet.Connect{Version: mqtt.V5, HasPassword: true, Password: []byte(token)},
		Info:    listen.Info{Listener: "admin", Scheme: "https", Remote: remoteAddr(r.RemoteAddr), UID: -1},
	})
	if id == nil { // loginRefused has heard of it
		if verdict.Code == mqtt.ConnectionRateExceeded {
			return nil, problem(http.StatusTooManyRequests, errors.New("too many failures: try again later"))
		}
		return nil, errWho
	}
	c := &caller{name: id.User, how: howToken, source: r.RemoteAddr, uid: -1}
	if id.User == "" {
		c.name = id.Device
	}
	return s.withRole(c, id.User)
}

// loginRefused notes a token that is worth nothing.
func (s *Server) loginRefused(r auth.Refusal) {
	s.noLogin(&caller{name: r.Identity, how: howToken, source: r.Source}, r.Why)
}

// byCertificate asks the CA. Names of devices and users are told apart by the registry:
// no two of them are the same.
func (s *Server) byCertificate(r *http.Request) (*caller, *Problem) {
	c := &caller{how: howCertificate, source: r.RemoteAddr, uid: -1}
	if s.o.CA == nil {
		s.noLogin(c, "there is no CA that certificates could be verified with")
		return nil, errWho
	}
	id, err := s.o.CA.Identify(r.TLS)
	if err != nil {
		s.noLogin(c, err.Error())
		return nil, errWho
	}
	c.name = id.Device
	if !slices.Contains(s.o.UserCAs, id.CA) {
		s.noLogin(c, "certificates of this CA name devices, and no users")
		return nil, errNoRole
	}
	return s.withRole(c, id.Device)
}

// withRole gives a caller the role of a user.
func (s *Server) withRole(c *caller, name string) (*caller, *Problem) {
	u, ok := s.o.Registry.User(name)
	switch {
	case !ok:
		s.noLogin(c, fmt.Sprintf("%.128q is no user", c.name))
	case u.Disabled:
		s.noLogin(c, "the user is disabled")
	case roles[u.Role] == nobody:
		s.noLogin(c, "the user has no role")
	default:
		c.role = roles[u.Role]
		return c, nil
	}
	return nil, errNoRole
}

// remoteAddr is the address of a caller as a connection has it; nil: it has none.
func remoteAddr(s string) net.Addr {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil
	}
	return net.TCPAddrFromAddrPort(a)
}
