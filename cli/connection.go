package cli

import (
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"fairlead/client"
	"fairlead/mqtt"
	"fairlead/mqtt/packet"
	"fairlead/mqtt/topic"
)

// A Connection is the flags that name a broker and a client: mosquitto's, under
// their names there. Add them with [Connection.Flags]; then [Connection.Options]
// has what they say.
type Connection struct {
	host, unix, rawURL, wsPath, bind string
	port                             int
	ws                               bool
	local                            bool // these are the flags of one client, which may go through admin.sock
	data                             Data

	version         mqtt.Version
	versionGiven    bool
	id, idPrefix    string
	user            string
	password        *string
	keepAlive       int
	keep            bool // -c
	expiry          time.Duration
	expiryGiven     bool
	connectTimeout  time.Duration
	debug, quiet    bool
	tls             tlsFlags
	will            willFlags
	props           Properties
	publishedTopics string // the topic of -L's path
}

type willFlags struct {
	topic, payload string
	qos            int
	retain         bool
}

// Flags adds the flags to f. packets are those that -D may name beside connect
// and will: "publish", "subscribe"...
func (c *Connection) Flags(f *Flags, packets ...string) {
	c.local = true
	c.BrokerFlags(f)
	f.Group("Broker on this machine (unless a flag above names one, or says who we are)")
	f.String(&c.data.given, "data", "DIR", "its data directory; default as for \"fairlead serve\". Who may open\nadmin.sock there is let in as an operator; without a broker there: 127.0.0.1")
	f.Group("Session")
	f.String(&c.id, "i,id", "ID", "Client Identifier; default: the broker's choice (3.x: random)")
	f.String(&c.idPrefix, "I,id-prefix", "PREFIX", "Client Identifier is PREFIX and the process id")
	f.Bool(&c.keep, "c,disable-clean-session", "keep the session when leaving, and take up an old one; needs -i")
	f.Func("x,session-expiry-interval", "SECONDS", "how long the broker keeps the session; -1: for ever (5.0)", c.setExpiry)
	f.Multi("D,property", "PACKET NAME VALUE", "set an MQTT 5 property; user-property takes a name and a value.\nPACKET: "+
		strings.Join(append([]string{"connect", "will"}, packets...), ", "), func(rest []string) (int, error) {
		return c.props.take(append([]string{"connect", "will"}, packets...), rest)
	})
	f.Bool(&c.quiet, "quiet", "no error messages; the exit code tells")
	f.Group("Will")
	f.String(&c.will.topic, "will-topic", "TOPIC", "topic of the Will Message, sent if this client vanishes")
	f.String(&c.will.payload, "will-payload", "TEXT", "payload of the Will Message; default: empty")
	f.Int(&c.will.qos, "will-qos", "QOS", 0, 2, "QoS of the Will Message; default 0")
	f.Bool(&c.will.retain, "will-retain", "retain the Will Message")
}

// BrokerFlags adds only what it takes to reach a broker: address, protocol, TLS
// and who we are.
func (c *Connection) BrokerFlags(f *Flags) {
	c.port, c.keepAlive = -1, 60
	f.Group("Broker")
	f.String(&c.host, "h,host", "HOST", "default 127.0.0.1")
	f.Int(&c.port, "p,port", "PORT", 1, 65535, "default 1883; with TLS 8883; with --ws 8083; with both 8084")
	f.String(&c.rawURL, "L,url", "URL", "instead of -h, -p, -u, -P, -t: mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT][/TOPIC],\nws[s]://HOST[:PORT]/PATH or unix:///PATH")
	f.String(&c.unix, "unix", "PATH", "connect to a Unix domain socket")
	if c.local {
		f.String(&c.bind, "A,bind", "HOST", "connect from this address of ours; not over WebSocket")
	}
	f.Bool(&c.ws, "ws", "speak over WebSocket")
	f.String(&c.wsPath, "ws-path", "PATH", "path of the WebSocket; default /mqtt")
	f.Func("V,protocol-version", "VERSION", "31, 311 or 5; default 5", c.setVersion)
	f.Int(&c.keepAlive, "k,keepalive", "SECONDS", 0, math.MaxUint16, "Keep Alive; default 60; 0: off")
	f.Duration(&c.connectTimeout, "connect-timeout", "SPAN", "give up connecting after this; default 10s")
	f.String(&c.user, "u,username", "USER", "User Name")
	f.OptString(&c.password, "P,pw", "PASSWORD", "Password")
	f.Bool(&c.debug, "d,debug", "print each packet's line on standard error")
	f.Bool(new(bool), "nodelay", "small packets go at once: always so, the flag is for mosquitto's scripts")
	c.tls.flags(f)
}

func (c *Connection) setVersion(s string) error {
	switch strings.TrimPrefix(strings.ToLower(s), "mqttv") {
	case "5", "5.0":
		c.version = mqtt.V5
	case "311", "3.1.1", "4":
		c.version = mqtt.V311
	case "31", "3.1", "3":
		c.version = mqtt.V31
	default:
		return fmt.Errorf("%q: expected 31, 311 or 5", s)
	}
	c.versionGiven = true
	return nil
}

func (c *Connection) setExpiry(s string) error {
	c.expiryGiven = true
	if s == "-1" || s == "∞" || s == "4294967295" {
		c.expiry = client.Forever
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return fmt.Errorf("%q: expected seconds from 0 to 4294967294, or -1 for ever", s)
	}
	c.expiry = time.Duration(n) * time.Second
	return nil
}

// Version is the protocol version that the flags choose.
func (c *Connection) Version() mqtt.Version {
	if c.version == 0 {
		return mqtt.V5
	}
	return c.version
}

// Properties are those that -D has set.
func (c *Connection) Properties() *Properties { return &c.props }

// URLTopic is the topic at the end of -L, or "". Valid after Options.
func (c *Connection) URLTopic() string { return c.publishedTopics }

// Options turns the flags into the client's options, or says which of them
// contradict each other: those errors are [UsageError]. With --quiet, env prints
// no errors from now on.
func (c *Connection) Options(env *Env) (client.Options, error) {
	if c.quiet {
		env.Stderr = io.Discard
	}
	o := client.Options{
		Version: c.Version(), ClientID: c.id, User: c.user, CleanStart: !c.keep, SessionExpiry: c.expiry,
		KeepAlive: keepAlive(c.keepAlive), ConnectTimeout: c.connectTimeout,
	}
	if c.password != nil {
		o.Password = []byte(*c.password)
	}
	for _, step := range []func(*client.Options) error{c.address, c.identity, c.session, c.properties, c.setWill} {
		if err := step(&o); err != nil {
			return o, err
		}
	}
	return o, c.transport(env, &o)
}

func keepAlive(seconds int) time.Duration {
	if seconds == 0 {
		return -1 // the client's word for off
	}
	return time.Duration(seconds) * time.Second
}

// address finds the URL and, if it needs one, the TLS configuration.
func (c *Connection) address(o *client.Options) (err error) {
	switch {
	case c.rawURL != "":
		if c.host != "" || c.port != -1 || c.unix != "" || c.ws {
			return Usagef("-L names the broker already: expected no -h, -p, --unix or --ws beside it")
		}
		o.URL, err = c.splitURL(c.rawURL)
		if err != nil {
			return err
		}
	case c.unix != "":
		if c.host != "" || c.port != -1 || c.ws || c.tls.wanted() {
			return Usagef("--unix names the broker already: expected no -h, -p, --ws or TLS flag beside it")
		}
		o.URL = (&url.URL{Scheme: "unix", Path: c.unix}).String()
	default:
		o.URL = c.hostURL()
	}
	if strings.HasPrefix(o.URL, "mqtts:") || strings.HasPrefix(o.URL, "wss:") {
		o.TLS, err = c.tls.config()
	}
	return err
}

// hostURL is the URL that -h, -p, --ws and the TLS flags mean.
func (c *Connection) hostURL() string {
	secure := c.tls.wanted() || c.port == 8883
	u := url.URL{Scheme: "mqtt", Host: c.host}
	port := 1883
	switch {
	case c.ws && secure:
		u.Scheme, u.Path, port = "wss", c.webPath(), 8084
	case c.ws:
		u.Scheme, u.Path, port = "ws", c.webPath(), 8083
	case secure:
		u.Scheme, port = "mqtts", 8883
	}
	if c.port != -1 {
		port = c.port
	}
	if u.Host == "" {
		u.Host = "127.0.0.1"
	}
	u.Host = net.JoinHostPort(strings.Trim(u.Host, "[]"), strconv.Itoa(port))
	return u.String()
}

func (c *Connection) webPath() string {
	if c.wsPath == "" {
		return "/mqtt"
	}
	return "/" + strings.TrimPrefix(c.wsPath, "/")
}

// splitURL takes the topic off -L's URL and gives the scheme its one name.
func (c *Connection) splitURL(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", Usagef("-L: %v", err)
	}
	switch strings.ToLower(u.Scheme) {
	case "mqtt", "tcp":
		u.Scheme = "mqtt"
		if c.tls.wanted() {
			u.Scheme = "mqtts"
		}
	case "mqtts", "ssl", "tls":
		u.Scheme = "mqtts"
	case "ws", "wss", "unix":
		u.Scheme = strings.ToLower(u.Scheme)
		return u.String(), nil
	default:
		return "", Usagef("-L %s: scheme %q: expected mqtt, mqtts, ws, wss or unix", u.Redacted(), u.Scheme)
	}
	c.publishedTopics = strings.TrimPrefix(u.Path, "/")
	if u.Fragment != "" || strings.HasSuffix(raw, "#") {
		c.publishedTopics += "#" + u.Fragment // a filter's wildcard, not a fragment
	}
	u.Path, u.RawPath, u.Fragment, u.RawFragment = "", "", "", ""
	return u.String(), nil
}

func (c *Connection) identity(o *client.Options) error {
	if c.idPrefix != "" {
		if c.id != "" {
			return Usagef("-i and -I: expected one of them")
		}
		o.ClientID = c.idPrefix + strconv.Itoa(os.Getpid())
	}
	if c.password != nil && c.user == "" && c.rawURL == "" && c.Version() < mqtt.V5 {
		return Usagef("-P without -u: MQTT %v has no password without a user; give -u USER too", c.Version())
	}
	return nil
}

func (c *Connection) session(o *client.Options) error {
	if c.expiryGiven && c.Version() < mqtt.V5 {
		return Usagef("-x needs MQTT 5.0: leave -V out, or use -c alone")
	}
	if c.keep && !c.expiryGiven {
		o.SessionExpiry = client.Forever
	}
	if (c.keep || o.SessionExpiry == client.Forever) && o.ClientID == "" {
		return Usagef("-c needs a Client Identifier that stays the same: give -i ID")
	}
	return nil
}

func (c *Connection) properties(o *client.Options) error {
	if c.props.used && c.Version() < mqtt.V5 {
		return Usagef("-D needs MQTT 5.0: leave -V out")
	}
	p := c.props.Connect
	if p.Has(mqtt.SessionExpiryInterval) && !c.expiryGiven {
		o.SessionExpiry = time.Duration(p.SessionExpiry) * time.Second
		if p.SessionExpiry == math.MaxUint32 {
			o.SessionExpiry = client.Forever
		}
	}
	if p.Has(mqtt.ReceiveMaximum) {
		o.ReceiveMaximum = p.ReceiveMaximum
	}
	if p.Has(mqtt.MaximumPacketSize) {
		o.PacketBytesMax = int(p.MaximumPacketSize)
	}
	if p.Has(mqtt.TopicAliasMaximum) {
		o.TopicAliasMaximum = p.TopicAliasMaximum
	}
	o.Connect = p
	return nil
}

func (c *Connection) setWill(o *client.Options) error {
	w := c.will
	if w.topic == "" {
		if w.payload != "" || w.qos != 0 || w.retain || c.props.Will != nil {
			return Usagef("a Will needs a topic: give --will-topic TOPIC")
		}
		return nil
	}
	if err := topic.CheckName(w.topic); err != nil {
		return Usagef("--will-topic: %v", err)
	}
	o.Will = &packet.Will{}
	if c.props.Will != nil {
		*o.Will = *c.props.Will
	}
	o.Will.Topic, o.Will.Payload, o.Will.QoS, o.Will.Retain = w.topic, []byte(w.payload), mqtt.QoS(w.qos), w.retain
	return nil
}

// tlsFlags are the flags of TLS. Any of them turns TLS on.
type tlsFlags struct {
	on, osCerts, insecure                 bool
	caFile, caPath, cert, key, alpn, vers string
	ciphers                               string
}

func (t *tlsFlags) flags(f *Flags) {
	f.Group("TLS (any of these turns it on)")
	f.Bool(&t.on, "tls", "use TLS; so does port 8883")
	f.String(&t.caFile, "cafile", "FILE", "trust the CA certificates in FILE (PEM)")
	f.String(&t.caPath, "capath", "DIR", "trust the CA certificates in the files of DIR (PEM)")
	f.Bool(&t.osCerts, "tls-use-os-certs", "trust the system's CA certificates too; alone: the default")
	f.String(&t.cert, "cert", "FILE", "this client's certificate (PEM)")
	f.String(&t.key, "key", "FILE", "the certificate's private key (PEM)")
	f.Bool(&t.insecure, "insecure", "do not check the broker's name; without a CA check nothing. For tests")
	f.String(&t.alpn, "tls-alpn", "NAME", "application protocol to ask for")
	f.String(&t.vers, "tls-version", "VERSION", "lowest version: tlsv1.2 (default) or tlsv1.3")
	f.String(&t.ciphers, "ciphers", "LIST", "cipher suites for TLS 1.2, by OpenSSL's names, with colons between them;\nthose of TLS 1.3 are always the good ones")
}

func (t *tlsFlags) wanted() bool { return *t != tlsFlags{} }

func (t *tlsFlags) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	switch t.vers {
	case "", "tlsv1.2":
	case "tlsv1.3":
		config.MinVersion = tls.VersionTLS13
	default:
		return nil, Usagef("--tls-version %q: expected tlsv1.2 or tlsv1.3", t.vers)
	}
	if t.ciphers != "" {
		if err := t.choose(config); err != nil {
			return nil, err
		}
	}
	if t.alpn != "" {
		config.NextProtos = []string{t.alpn}
	}
	if (t.cert == "") != (t.key == "") {
		return nil, Usagef("--cert and --key belong together: expected both")
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("read --cert and --key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, t.trust(config)
}
