package auth

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fairlead/mqtt"
	"fairlead/policy"
)

// Options are what a Chain needs.
type Options struct {
	Directory Directory
	// Methods are asked in this order. What can be told from the connection comes
	// first, a hook behind what the registry knows, Anonymous last; where SCRAM stands
	// does not matter.
	Methods []Method
	// Refused hears of each refusal before the Client does. It must not wait: a
	// stranger can cause as many as it likes. nil: nobody hears of them.
	Refused func(Refusal)
	Now     func() time.Time // nil: time.Now
}

// Method is one way to show an identity: [Operator], [Certificate], [Tokens],
// [JWT], [Hook], [Password], [SCRAM], [Anonymous].
type Method interface {
	// Name is what Principal.Method and Refusal.Method say.
	Name() string
	judge(a *attempt) answer
}

// Refusal is all there is to know about a Client that was not let in. It is for the
// operator: the Client is told the Code and nothing else.
type Refusal struct {
	Method   string          // that said no; empty: none said yes
	Identity string          // what the Client says it is, shortened; not verified
	ClientID string          // shortened
	Listener string          // by name
	Source   string          // the Client's address
	Prefix   netip.Prefix    // that guessing is counted by; not valid: the source is no IP address
	Code     mqtt.ReasonCode // what the Client is told
	Why      string          // one sentence
	Hint     string          // the command that would help; only if the Client is on this machine
}

// Counters are what a Chain counts.
type Counters struct {
	Accepted    atomic.Uint64
	Refused     atomic.Uint64 // the following included
	Slowed      atomic.Uint64 // refused unseen, after too many failures
	Unavailable atomic.Uint64 // refused because nobody could say: a hook is down, too many hashes wait
}

// Chain asks several methods who a Client is. It satisfies the broker's
// Authenticator; make one with [New]. All methods may be called from any goroutine.
type Chain struct {
	Counters
	o     Options
	brake *brake
}

// New makes a Chain. The error says which option is wrong.
func New(o Options) (*Chain, error) {
	if o.Directory == nil {
		return nil, errors.New("auth: no directory of devices and users")
	}
	if slices.Contains(o.Methods, nil) {
		return nil, errors.New("auth: a method is nil")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Chain{o: o, brake: newBrake()}, nil
}

// Authenticate says who is behind a connection, by what its CONNECT shows. It may
// wait for as long as its slowest method may. Principal.Client is what the CONNECT
// says, so it is empty if the Server is to assign one, see [AssignID].
func (c *Chain) Authenticate(cr Credentials) (*policy.Principal, policy.Verdict) {
	id, v := c.Identify(cr)
	if id == nil {
		return nil, v
	}
	return &id.Principal, v
}

// Identify is Authenticate for those who also want to know when the identity ends.
// The Identity is nil if, and only if, the Verdict is no.
func (c *Chain) Identify(cr Credentials) (*Identity, policy.Verdict) {
	a := &attempt{Credentials: cr, chain: c, now: c.o.Now()}
	if cr.Connect == nil {
		return nil, a.refuse(&no{code: mqtt.NotAuthorized, why: "there is no CONNECT to judge by"})
	}
	return a.settle(c.ask(a))
}

// ask goes through the methods until one says yes or no. If none does, the reason of
// the first that could say why it passed is the operator's best clue.
func (c *Chain) ask(a *attempt) (*proof, *no) {
	var clue *no
	var equalize []func() *no
	for _, m := range c.o.Methods {
		a.method = m.Name()
		answer := m.judge(a)
		switch {
		case answer.no != nil:
			return nil, answer.no
		case answer.proof != nil:
			return answer.proof, nil
		case clue == nil:
			clue = answer.passed
		}
		if answer.equalize != nil {
			equalize = append(equalize, answer.equalize)
		}
	}
	for _, f := range equalize {
		if n := f(); n != nil {
			return nil, n
		}
	}
	if clue == nil {
		a.method = ""
		clue = &no{
			code: mqtt.NotAuthorized, identity: a.Connect.User, why: "no method accepts what the client shows: " + shows(a),
			hint: command("fairlead device add %s", a.Connect.ClientID),
		}
	}
	return nil, clue
}

// shows names the kinds of credentials that a CONNECT came with.
func shows(a *attempt) string {
	var kinds []string
	if t := a.Info.TLS; t != nil && len(t.PeerCertificates) > 0 {
		kinds = append(kinds, "a certificate")
	}
	if a.Connect.HasUser {
		kinds = append(kinds, "a user name")
	}
	if a.Connect.HasPassword {
		kinds = append(kinds, "a password")
	}
	if kinds == nil {
		return "no credentials"
	}
	return strings.Join(kinds, ", ")
}

// Exchange begins enhanced authentication, or returns nil if no method of the Chain
// has an Authentication Method of that name [MQTT-4.12.0-1]. The Exchange is an
// [Identified].
func (c *Chain) Exchange(method string, cr Credentials) Exchange {
	a := &attempt{Credentials: cr, chain: c, now: c.o.Now()}
	for _, m := range c.o.Methods {
		if x, ok := m.(exchanger); ok {
			if talk := x.converse(method, a); talk != nil {
				a.method = m.Name()
				return &exchange{attempt: a, talk: talk}
			}
		}
	}
	a.refuse(&no{code: mqtt.BadAuthenticationMethod, why: fmt.Sprintf("authentication method %q is not offered", shorten(method))})
	return nil
}

// exchanger is a Method that has enhanced authentication.
type exchanger interface {
	// converse begins a conversation; nil: the Authentication Method is not its own.
	converse(method string, a *attempt) conversation
}

// conversation is the method's part in an exchange. Without proof and no it goes on.
type conversation interface {
	step(data []byte) (reply []byte, p *proof, n *no)
}

// exchange is a conversation within a Chain. It belongs to one connection.
type exchange struct {
	attempt *attempt
	talk    conversation
	id      *Identity
	over    bool
}

// Step implements [Exchange].
func (x *exchange) Step(data []byte) ([]byte, *policy.Principal, policy.Verdict) {
	a := x.attempt
	a.now = a.chain.o.Now()
	if x.over {
		return nil, nil, a.refuse(&no{code: mqtt.NotAuthorized, why: "the exchange is over"})
	}
	reply, p, n := x.talk.step(data)
	if p == nil && n == nil {
		return reply, nil, policy.Verdict{}
	}
	x.over = true
	id, v := a.settle(p, n)
	if id == nil {
		return nil, nil, v
	}
	x.id = id
	return reply, &id.Principal, v
}

// Identity implements [Identified].
func (x *exchange) Identity() *Identity { return x.id }

// Recheck looks at the grounds of an Identity once more: at the registry, at
// revocation, at the clock. The Identity that it returns has the groups and
// attributes of now; nil if the Client may not stay, and then the Verdict has the
// Reason Code for the DISCONNECT: 0xA0 at its end, 0x87 otherwise. The operator is
// not told by a Refusal but by why.
func (c *Chain) Recheck(id *Identity, clientID mqtt.ClientID) (now *Identity, v policy.Verdict, why string) {
	now, n := c.resolve(id.proof, c.o.Now())
	if n == nil {
		n = c.bind(&now.Principal, string(clientID))
	}
	if n != nil {
		return nil, policy.Verdict{Code: n.code}, n.why
	}
	now.Client = clientID
	return now, policy.Verdict{}, ""
}

// answer is what a method says. The zero value: not mine.
type answer struct {
	proof    *proof
	no       *no
	passed   *no        // why it is not mine, for the operator if it is nobody's
	equalize func() *no // to be called if nobody says yes: makes a no cost what it would have cost here
}

// no is why a Client is refused.
type no struct {
	code     mqtt.ReasonCode
	identity string // what the Client says it is
	why      string // for the operator
	hint     string // the command that would help
	guess    bool   // a secret was wrong: counts against source and identity
	slowed   bool   // nothing was checked
}

// proof is what a method has found true of a Client, before the registry has been
// asked.
type proof struct {
	method       string
	device, user string
	groups       []string          // beside those in the registry
	attrs        map[string]string // the registry's win over them
	expires      time.Time         // zero: never
	serial       string
	// vouched: the method stands for a user that the registry does not know, or for a
	// device. One that the registry knows and keeps out stays out in any case.
	vouchedUser, vouchedDevice bool
	apart                      bool         // it has nothing to do with the registry
	holds                      func() error // whether the grounds still hold; nil: they can't change
}

// attempt is one Client that asks to be let in.
type attempt struct {
	Credentials
	chain  *Chain
	now    time.Time
	method string // that is being asked
	tries  []countedTry
}

type countedTry struct {
	identity string
	try      *try
}

// guess must be called before a secret is looked at that could be found by guessing.
// identity is empty if the secret says itself whose it is. The answer is nil, or why
// the secret may not be looked at now.
func (a *attempt) guess(identity string, secret []byte) *no {
	if slices.ContainsFunc(a.tries, func(t countedTry) bool { return t.identity == identity }) {
		return nil // an earlier method has asked
	}
	t := a.chain.brake.begin(sourceOf(&a.Info), identity, secret, a.now)
	if t == nil {
		return &no{
			code: mqtt.ConnectionRateExceeded, identity: identity, slowed: true,
			why: "not looked at: too many failures of this identity or from this source before",
		}
	}
	a.tries = append(a.tries, countedTry{identity, t})
	return nil
}

// settle ends an attempt: what a method has proven is held against the registry, and
// failures are counted.
func (a *attempt) settle(p *proof, n *no) (*Identity, policy.Verdict) {
	var id *Identity
	if n == nil {
		id, n = a.chain.resolve(p, a.now)
	}
	if n == nil {
		n = a.bind(&id.Principal)
	}
	o := undecided
	switch {
	case n == nil:
		o = succeeded
	case n.guess:
		o = failed
	}
	for _, t := range a.tries {
		a.chain.brake.end(t.try, o, a.now)
	}
	a.tries = nil
	if n != nil {
		if n.code == mqtt.MaximumConnectTime { // CONNACK has no such Reason Code [MQTT-3.2.2-8]
			n.code = mqtt.NotAuthorized
		}
		return nil, a.refuse(n)
	}
	a.chain.Accepted.Add(1)
	id.Client = mqtt.ClientID(a.Connect.ClientID)
	return id, policy.Verdict{}
}

// bind holds the identity against the Client Identifier that it wants to use.
func (a *attempt) bind(p *policy.Principal) *no {
	if a.Connect == nil { // a re-authentication that does not say for which Session
		return &no{code: mqtt.NotAuthorized, identity: name(p), why: "no client identifier is given that the identity could be held against"}
	}
	return a.chain.bind(p, a.Connect.ClientID)
}

// bind refuses a Client Identifier that is somebody else's: a device may use its
// name, or its name, a colon and a suffix, and nobody else may. An empty one is
// assigned by the broker, see [AssignID].
func (c *Chain) bind(p *policy.Principal, id string) *no {
	owner, _, _ := strings.Cut(id, ":")
	if p.Device != "" {
		if id == "" || owner == p.Device {
			return nil
		}
		return &no{
			code: mqtt.ClientIdentifierNotValid, identity: p.Device,
			why: fmt.Sprintf("client identifier %q is not the device's: expected its name, or its name, a colon and a suffix", shorten(id)),
		}
	}
	if _, taken := c.o.Directory.Device(owner); taken {
		return &no{
			code: mqtt.ClientIdentifierNotValid, identity: name(p),
			why: fmt.Sprintf("client identifier %q belongs to the device %q", shorten(id), shorten(owner)),
		}
	}
	return nil
}

func name(p *policy.Principal) string {
	if p.Device != "" {
		return p.Device
	}
	return p.User
}

// refuse tells the operator everything and returns what the Client may know.
func (a *attempt) refuse(n *no) policy.Verdict {
	c := a.chain
	c.Refused.Add(1)
	switch {
	case n.slowed:
		c.Slowed.Add(1)
	case n.code == mqtt.ServerBusy || n.code == mqtt.ServerUnavailable:
		c.Unavailable.Add(1)
	}
	if c.o.Refused != nil {
		c.o.Refused(a.refusal(n))
	}
	return policy.Verdict{Code: n.code}
}

func (a *attempt) refusal(n *no) Refusal {
	r := Refusal{
		Method: a.method, Identity: shorten(n.identity), Listener: a.Info.Listener,
		Prefix: sourceOf(&a.Info), Code: n.code, Why: n.why,
	}
	if a.Connect != nil {
		r.ClientID = shorten(a.Connect.ClientID)
	}
	if a.Info.Remote != nil {
		r.Source = a.Info.Remote.String()
	}
	if local(&a.Info) {
		r.Hint = n.hint
	}
	return r
}

// resolve makes an Identity of what has been proven, as the registry is now.
func (c *Chain) resolve(p *proof, now time.Time) (*Identity, *no) {
	if !p.expires.IsZero() && !now.Before(p.expires) {
		return nil, &no{code: mqtt.MaximumConnectTime, identity: p.who(), why: "the identity has expired at " + p.expires.UTC().Format(time.RFC3339)}
	}
	if p.holds != nil {
		if err := p.holds(); err != nil {
			return nil, &no{code: mqtt.NotAuthorized, identity: p.who(), why: err.Error()}
		}
	}
	id := &Identity{Expires: p.expires, Serial: p.serial, proof: p}
	id.Principal = policy.Principal{
		Device: p.device, User: p.user, Groups: slices.Clone(p.groups), Attrs: maps.Clone(p.attrs), Method: p.method,
	}
	if p.apart {
		return id, nil
	}
	n := c.resolveDevice(p, id)
	if n == nil {
		n = c.resolveUser(p, id)
	}
	if n != nil {
		return nil, n
	}
	slices.Sort(id.Groups)
	id.Groups = slices.Compact(id.Groups)
	return id, nil
}

func (p *proof) who() string {
	if p.device != "" {
		return p.device
	}
	return p.user
}

func (c *Chain) resolveDevice(p *proof, id *Identity) *no {
	if p.device == "" {
		return nil
	}
	n := &no{code: mqtt.NotAuthorized, identity: p.device}
	if err := checkDevice(p.device); err != nil {
		n.why = err.Error()
		return n
	}
	d, known := c.o.Directory.Device(p.device)
	switch {
	case known && d.State == Active:
		id.Groups = append(id.Groups, d.Groups...)
		id.Attrs = merge(id.Attrs, d.Attrs)
		return nil
	case known:
		n.why = fmt.Sprintf("device %q is %s", p.device, d.State)
		if d.State == Suspended {
			n.hint = command("fairlead device resume %s", p.device)
		}
		return n
	case p.vouchedDevice:
		return nil
	}
	n.why = fmt.Sprintf("there is no device %q", p.device)
	n.hint = command("fairlead device add %s", p.device)
	return n
}

func (c *Chain) resolveUser(p *proof, id *Identity) *no {
	if p.user == "" {
		return nil
	}
	n := &no{code: mqtt.NotAuthorized, identity: p.user}
	if err := checkName("user", p.user); err != nil {
		n.why = err.Error()
		return n
	}
	u, known := c.o.Directory.User(p.user)
	switch {
	case known && u.Disabled:
		n.why = fmt.Sprintf("user %q is disabled", p.user)
		return n
	case known:
		id.Groups = append(id.Groups, u.Groups...)
		if u.Role != "" {
			id.Groups = append(id.Groups, u.Role)
		}
		return nil
	case p.vouchedUser:
		return nil
	}
	n.why = fmt.Sprintf("there is no user %q", p.user)
	n.hint = command("fairlead user add %s --password-stdin", p.user)
	return n
}

// merge adds the attributes of the registry, which win.
func merge(given, registered map[string]string) map[string]string {
	if len(given) == 0 {
		return registered // shared, and changed by nobody
	}
	maps.Copy(given, registered)
	return given
}

// holdsSecret makes a proof depend on a stored secret: when it is changed or taken
// away, the proof holds no more.
func holdsSecret(now Secret, stored func() (Secret, bool)) func() error {
	was := now.fingerprint()
	return func() error {
		s, ok := stored()
		if !ok || s.fingerprint() != was {
			return errChanged
		}
		return nil
	}
}

var errChanged = errors.New("the secret that was shown is not valid any more")
