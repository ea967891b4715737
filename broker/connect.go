package broker

import (
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"fairlead/auth"
	"fairlead/journal"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/session"
	"fairlead/policy"
)

// greeting is a connection between its CONNECT and its CONNACK.
type greeting struct {
	version  mqtt.Version
	connect  packet.Connect
	link     *session.Link
	exchange auth.Exchange
}

// greet takes the packets before the CONNACK: a CONNECT first [MQTT-3.1.0-1],
// then AUTH packets if the Client asked for enhanced authentication.
func (c *conn) greet(p packet.Packet) error {
	switch p := p.(type) {
	case *packet.Connect:
		if c.greeting == nil {
			return c.connect(p)
		}
	case *packet.Auth:
		if c.greeting != nil && c.greeting.exchange != nil {
			return c.authenticate(p)
		}
	case *packet.Disconnect:
		if c.greeting != nil {
			return errDisconnected
		}
	}
	if c.greeting == nil {
		return violation(mqtt.ProtocolError, "%s as the first packet: expected CONNECT", p.Type())
	}
	return violation(mqtt.ProtocolError, "%s during authentication: expected AUTH", p.Type()) // [MQTT-3.1.2-30]
}

// connect takes the CONNECT: are its terms acceptable, and who sends it?
func (c *conn) connect(p *packet.Connect) error {
	c.greeting = &greeting{version: p.Version, connect: *p}
	c.version, c.problem = p.Version, true
	b := c.broker
	l, err := session.Open(p, &b.limits.Limits)
	if err != nil {
		return err
	}
	c.greeting.link, c.problem = l, l.Problem
	if l.Will != nil {
		l.Will.Message = *l.Will.Message.Keep()
	}
	who := auth.Credentials{Connect: &c.greeting.connect, Info: c.nc.Info()}
	if l.Method != "" {
		return c.beginExchange(l.Method, who, p.Properties)
	}
	if b.auth == nil {
		return c.accept(nil)
	}
	id, v := b.auth.Identify(who)
	if !v.Allowed() {
		return refusal(v)
	}
	return c.accept(id)
}

func (c *conn) beginExchange(method string, who auth.Credentials, p *packet.Properties) error {
	if c.broker.auth != nil {
		c.greeting.exchange = c.broker.auth.Exchange(method, who)
	}
	if c.greeting.exchange == nil { // [MQTT-4.12.0-1]
		return violation(mqtt.BadAuthenticationMethod, "Authentication Method %q is not supported", method)
	}
	c.method = method
	return c.exchangeStep(p)
}

// authenticate takes an AUTH packet before the CONNACK.
func (c *conn) authenticate(p *packet.Auth) error {
	if err := c.checkAuth(p, mqtt.ContinueAuthentication); err != nil {
		return err
	}
	return c.exchangeStep(p.Properties)
}

// checkAuth keeps the rules that hold for each AUTH packet of a Client
// [MQTT-4.12.0-5] [MQTT-4.12.1-1].
func (c *conn) checkAuth(p *packet.Auth, want mqtt.ReasonCode) error {
	if p.Reason != want {
		return violation(mqtt.ProtocolError, "AUTH with Reason Code %v: expected %v", p.Reason, want)
	}
	if p.Properties == nil || p.Properties.AuthenticationMethod != c.method {
		return violation(mqtt.ProtocolError, "AUTH without the Authentication Method %q of the CONNECT", c.method)
	}
	return nil
}

func (c *conn) exchangeStep(p *packet.Properties) error {
	reply, principal, v := c.greeting.exchange.Step(authData(p))
	switch {
	case !v.Allowed():
		return refusal(v)
	case principal != nil:
		id := identityOf(c.greeting.exchange, principal)
		c.greeting.exchange = nil
		return c.accept(id, reply...)
	}
	return c.sayNow(&packet.Auth{Reason: mqtt.ContinueAuthentication, Properties: c.authProperties(reply)})
}

// identityOf is what an exchange that has succeeded has led to.
func identityOf(x auth.Exchange, p *policy.Principal) *auth.Identity {
	if i, ok := x.(auth.Identified); ok {
		return i.Identity()
	}
	return &auth.Identity{Principal: *p}
}

func authData(p *packet.Properties) []byte {
	if !p.Has(mqtt.AuthenticationData) {
		return nil
	}
	return p.AuthenticationData
}

func (c *conn) authProperties(data []byte) *packet.Properties {
	p := &packet.Properties{AuthenticationMethod: c.method, AuthenticationData: data}
	p.Mark(mqtt.AuthenticationMethod)
	if data != nil {
		p.Mark(mqtt.AuthenticationData)
	}
	return p
}

// reauthenticate takes an AUTH packet of a connected Client (4.12.1). Until the
// exchange has succeeded, the Client goes on as who it was.
func (c *conn) reauthenticate(p *packet.Auth) error {
	if c.method == "" {
		return violation(mqtt.ProtocolError, "AUTH without an Authentication Method in the CONNECT") // [MQTT-4.12.0-6]
	}
	want := mqtt.ContinueAuthentication
	if c.renewal == nil {
		want = mqtt.ReAuthenticate
	}
	if err := c.checkAuth(p, want); err != nil {
		return err
	}
	if c.renewal == nil {
		c.renewal = c.broker.auth.Exchange(c.method, auth.Credentials{
			Connect: &packet.Connect{Version: c.version, ClientID: string(c.id())}, Info: c.nc.Info(),
		})
	}
	if c.renewal == nil {
		return violation(mqtt.BadAuthenticationMethod, "Authentication Method %q is not supported any more", c.method)
	}
	reply, principal, v := c.renewal.Step(authData(p.Properties))
	if !v.Allowed() { // [MQTT-4.12.1-2]
		return refusal(v)
	}
	reason := mqtt.ContinueAuthentication
	if principal != nil {
		id := identityOf(c.renewal, principal)
		c.renewal, reason = nil, mqtt.Success
		if err := c.renewed(id); err != nil {
			return err
		}
	}
	return c.reply(&packet.Auth{Reason: reason, Properties: c.authProperties(reply)})
}

// renewed takes the identity that a re-authentication has led to. It must be the one
// that the Session belongs to.
func (c *conn) renewed(id *auth.Identity) error {
	s := c.session
	if old := c.access.Load().identity; old != nil && (id.Device != old.Device || id.User != old.User) {
		return violation(mqtt.NotAuthorized, "the re-authentication shows another identity")
	}
	id.Client = s.state.ID
	now := &access{identity: id, rights: c.broker.rightsOf(id)}
	c.access.Store(now)
	c.expireAt(id.Expires)
	if err := s.restrict(now); err != nil {
		return &session.Error{Reason: unkept(err).Code, What: unkept(err).Reason}
	}
	return nil
}

func refusal(v policy.Verdict) error {
	if v.ServerReference != "" {
		return &elsewhere{&session.Error{Reason: v.Code, What: v.Reason}, v.ServerReference}
	}
	return &session.Error{Reason: v.Code, What: v.Reason}
}

// elsewhere is a refusal that names another Server (4.13).
type elsewhere struct {
	why       *session.Error
	reference string
}

func (e *elsewhere) Error() string { return e.why.Error() }
func (e *elsewhere) Unwrap() error { return e.why }

// accept gives the connection its Session and says so. The identity is nil if nobody
// was asked.
func (c *conn) accept(id *auth.Identity, authReply ...byte) error {
	b, g := c.broker, c.greeting
	l := g.link
	assigned := l.ID == ""
	if assigned {
		l.ID = assignID(id) // [MQTT-3.1.3-6]
		if l.Will != nil {
			l.Will.Message.Publisher = l.ID
		}
	}
	who := openAccess
	if id != nil {
		id.Client = l.ID
		who = &access{identity: id, rights: b.rightsOf(id)}
		if v := who.enter(b, l); !v.Allowed() {
			return refusal(v)
		}
	}
	ack := func(present bool) *packet.Connack {
		a := l.Connack(present, assigned, &b.limits.Limits)
		if c.method != "" {
			a.Properties = withAuth(a.Properties, c.authProperties(authReply))
		}
		return a
	}
	c.access.Store(who)
	c.since = c.lastRead
	if l.KeepAlive > 0 {
		c.keepAlive = time.Duration(l.KeepAlive) * 1500 * time.Millisecond // [MQTT-3.1.2-22]
	}
	if err := b.attach(c, l, ack); err != nil {
		return err
	}
	c.greeting = nil
	if id != nil && !id.Expires.IsZero() {
		c.expireAt(id.Expires)
	}
	c.reader.MaxBytes = int(b.limits.PacketBytes)
	b.logger.Debug("client connected", "client", l.ID, "version", l.Version, "remote", c.nc.RemoteAddr(), "clean_start", l.CleanStart)
	c.linger = linger
	return c.nc.SetReadDeadline(c.lingerUntil(c.lastRead))
}

// assignID makes a Client Identifier for a Client that leaves it to the Server.
func assignID(id *auth.Identity) mqtt.ClientID {
	random := strings.ToLower(rand.Text())
	if id == nil {
		return mqtt.ClientID("auto-" + random)
	}
	return auth.AssignID(&id.Principal, random)
}

// deadline is when the Client must have been heard of; zero: never.
func (c *conn) deadline() time.Time {
	if c.keepAlive == 0 {
		return time.Time{}
	}
	return c.lastRead.Add(c.keepAlive)
}

func withAuth(p, auth *packet.Properties) *packet.Properties {
	if p == nil {
		return auth
	}
	p.AuthenticationMethod, p.AuthenticationData = auth.AuthenticationMethod, auth.AuthenticationData
	p.Set |= auth.Set
	return p
}

// attach gives the Session of the Client Identifier to the connection: a new
// one, or the old one if the Client wants it [MQTT-3.1.2-4] [MQTT-3.1.2-5]. A
// connection that has it now is ended first [MQTT-3.1.4-3].
func (b *Broker) attach(c *conn, l *session.Link, ack func(present bool) *packet.Connack) error {
	for {
		s, err := b.find(l.ID)
		if err != nil {
			return err
		}
		s.attach.Lock()
		if err := s.owned(c.access.Load()); err != nil {
			s.attach.Unlock()
			return err
		}
		present, ok, err := s.takeOver(l)
		if err == nil && !ok { // it has ended meanwhile
			s.attach.Unlock()
			continue
		}
		if err == nil {
			err = s.record(l, c.access.Load().owner(), present, b.isEnding(l.ID))
		}
		if err == nil {
			err = s.belongTo(c.access.Load(), present)
		}
		if err == nil {
			err = s.begin(c, l, ack(present))
		}
		s.attach.Unlock()
		if err != nil {
			return err
		}
		for sub := range s.state.Subscriptions() {
			if sub.Filter.Shared() {
				b.wakeShare(sub.Filter.String())
			}
		}
		return nil
	}
}

// belongTo notes who the Client is, and takes from a Session that is present what its
// Client may not have any more. The caller holds s.attach.
func (s *subscriber) belongTo(a *access, present bool) error {
	s.mu.Lock()
	s.owner = a.owner()
	s.mu.Unlock()
	if present && a.rights != nil {
		if err := s.restrict(a); err != nil {
			return &session.Error{Reason: mqtt.ServerUnavailable, What: unkept(err).Reason}
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.access, s.sifting = a, false
	return nil
}

// record puts it on record that the Client has a connection, before CONNACK says
// so, if the Session is to outlive it, or its Will is. If it replaces one that was on
// record, that one must not come back either. The caller holds s.attach.
func (s *subscriber) record(l *session.Link, owner string, present, replaces bool) error {
	b := s.broker
	if b.committer == nil || !s.recorded && l.Expiry == 0 && l.Will == nil {
		s.comeBack()
		if !replaces {
			return nil
		}
		err := b.commitOps(func(uint64) {}, &journal.Op{Kind: journal.End, Client: l.ID})
		return s.recordFailed(l, present, err)
	}
	op := &journal.Op{Kind: journal.Connect, Client: l.ID, Clean: !present, Expiry: l.Expiry, Will: writtenWill(l.Will), Owner: owner}
	err := b.commitOps(func(number uint64) {
		s.comeBack()
		s.mu.Lock()
		defer s.mu.Unlock()
		if !present {
			s.durable = l.Expiry > 0
		}
		s.recorded, s.number, s.owner = true, number, owner
		s.state.Expiry = l.Expiry // a checkpoint may come before begin
		s.rest = rest{online: true, will: l.Will}
		s.dirtyLocked()
	}, op)
	return s.recordFailed(l, present, err)
}

// recordFailed takes back what a CONNECT that can't be put on record has begun. It
// does nothing if err is nil.
func (s *subscriber) recordFailed(l *session.Link, present bool, err error) error {
	b := s.broker
	if err == nil {
		return nil
	}
	if !present { // nothing has come of it
		s.mu.Lock()
		s.gone = true
		s.mu.Unlock()
		b.mu.Lock()
		delete(b.sessions, l.ID)
		b.mu.Unlock()
		b.Sessions.Add(-1)
	}
	return &session.Error{Reason: mqtt.ServerUnavailable, What: unkept(err).Reason}
}

// isEnding reports whether the end of a Session with this Client Identifier is not
// on record yet: after a crash it would be there again.
func (b *Broker) isEnding(id mqtt.ClientID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ending[id] > 0
}

// ends counts the ends of Sessions that are not on record yet.
func (b *Broker) ends(id mqtt.ClientID, more int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending[id] += more; b.ending[id] == 0 {
		delete(b.ending, id)
	}
}

// find returns the Session of the Client Identifier, made if there is none.
func (b *Broker) find(id mqtt.ClientID) (*subscriber, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[id]; s != nil {
		return s, nil
	}
	if most := b.limits.Sessions; most > 0 && len(b.sessions) >= most {
		return nil, violation(mqtt.QuotaExceeded, "the broker has %d sessions, as many as it may", most)
	}
	s := &subscriber{broker: b}
	if b.committer != nil {
		s.hold = s.holds
	}
	s.state.ID = id
	b.sessions[id] = s
	b.Sessions.Add(1)
	return s, nil
}

// takeOver ends the connection that has the Session now and reports whether the
// Session is still there and has a past. The caller holds s.attach.
func (s *subscriber) takeOver(l *session.Link) (present, ok bool, err error) {
	if last := s.last.Load(); last != nil {
		last.kick(mqtt.SessionTakenOver, "another connection uses the client identifier") // [MQTT-3.1.4-3]
		<-last.done
	}
	if s.isGone() {
		return false, false, nil
	}
	if s.will != nil && !s.broker.now().Before(s.willAt) {
		// It was due when the connection was lost, and a start may not have come to it yet.
		if err := s.publishWill(); err != nil {
			return false, false, &session.Error{Reason: mqtt.ServerUnavailable, What: unkept(err).Reason}
		}
	}
	if s.past() && (l.CleanStart || s.over(s.broker.now())) {
		if err := s.end(); err != nil {
			return false, false, &session.Error{Reason: mqtt.ServerUnavailable, What: unkept(err).Reason}
		}
		return false, false, nil
	}
	return s.past(), true, nil
}

// past reports whether the Session has had a connection before.
func (s *subscriber) past() bool { return s.begun || s.recorded }

// begin makes c the connection of the Session. The CONNACK is the first packet
// that the Client gets [MQTT-3.2.0-1].
func (s *subscriber) begin(c *conn, l *session.Link, ack *packet.Connack) error {
	s.last.Store(c)
	s.begun, s.ending = true, session.Ending{}
	s.transient.Store(l.Expiry == 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Connect(l)
	c.session = s
	s.broker.Connected.Add(1) // leave takes it back
	b, err := c.append(c.bytes(), ack)
	if err != nil {
		return err
	}
	c.setBytes(b)
	s.conn = c
	s.online.Store(true)
	s.pumpLocked(c.lastRead)
	c.scheduleLocked(c.work)
	return nil
}

// refuse answers a CONNECT that is not accepted, if its version has an answer
// for that [MQTT-3.1.4-2] [v3 MQTT-3.1.2-2]. What is no CONNECT gets none.
func (c *conn) refuse(err error, r mqtt.ReasonCode) {
	version := c.version
	if c.greeting == nil {
		if version = answerVersion(err); version == 0 {
			return
		}
	}
	if r == mqtt.ServerShuttingDown {
		r = mqtt.ServerUnavailable // CONNACK has no other word for it [MQTT-3.2.2-8]
	}
	ack := &packet.Connack{Reason: r}
	if version >= mqtt.V5 {
		ack.Properties = reasonString(clientText(err))
		if e := (*elsewhere)(nil); errors.As(err, &e) {
			ack.Properties.Mark(mqtt.ServerReference)
			ack.Properties.ServerReference = e.reference
		}
	} else if !hasReturnCode(r) {
		return
	}
	c.version = version
	c.sayNow(ack)
}

// hasReturnCode reports whether 3.1 and 3.1.1 have a Connect Return code that
// says the same. For anything else they only close the connection.
func hasReturnCode(r mqtt.ReasonCode) bool {
	switch r {
	case mqtt.UnsupportedProtocolVersion, mqtt.ClientIdentifierNotValid, mqtt.ServerUnavailable, mqtt.ServerBusy,
		mqtt.BadUserNameOrPassword, mqtt.NotAuthorized, mqtt.Banned, mqtt.QuotaExceeded, mqtt.ConnectionRateExceeded,
		mqtt.UseAnotherServer, mqtt.ServerMoved, mqtt.BadAuthenticationMethod:
		return true
	}
	return false
}

// sayNow writes one packet while there is no Session, and so no outbox.
func (c *conn) sayNow(p packet.Packet) error {
	b, err := packet.Append(nil, c.version, p)
	if err != nil {
		return err
	}
	c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	if _, err = c.nc.Write(b); err != nil {
		return err
	}
	c.flushed(len(b))
	return c.nc.SetWriteDeadline(time.Time{})
}

// answerVersion is the version in which to answer what could not be read as a
// CONNECT; 0: not at all. A level that we do not know is answered in the form of
// its neighbour: below 5 as 3.1.1 asks [v3 MQTT-3.1.2-2], above it as 5.0 does.
func answerVersion(err error) mqtt.Version {
	var e *packet.Error
	if !errors.As(err, &e) || e.Packet != packet.CONNECT {
		return 0
	}
	switch level := e.Level & 0x7F; { // bridges of Mosquitto set the highest bit
	case level >= byte(mqtt.V5):
		return mqtt.V5
	case e.Reason == mqtt.UnsupportedProtocolVersion:
		return mqtt.V311
	}
	return 0 // malformed: before 5.0 only the connection is closed [v3 MQTT-3.1.4-1]
}
