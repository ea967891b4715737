package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"fairlead/listen"
	"fairlead/mqtt"
)

// HookOptions say which HTTP server is asked about Clients.
type HookOptions struct {
	URL     string        // https, or http on loopback
	TLS     *tls.Config   // for https: authorities, a certificate of our own; nil: the system's authorities
	Header  http.Header   // goes with each request, for example Authorization
	Timeout time.Duration // of one question, the wait for its turn included; 0: five seconds
	// AllowFor and DenyFor are how long an answer is remembered: so long it takes until
	// the server's change of mind is noticed. 0: one minute and five seconds; negative:
	// not at all. An expires in the answer ends it sooner.
	AllowFor, DenyFor time.Duration
	// Device names the device whose certificate the connection shows, for the request;
	// nil: the request has none.
	Device func(*listen.Info) string
	// Only are the groups that an answer may give, see [Mapping].
	Only []string
	// Unregistered accepts devices that the registry does not know.
	Unregistered bool
}

const (
	hookAtOnce   = 64       // questions under way; more wait, within Timeout
	hookWaiting  = 4096     // that wait; more are refused with 0x89 at once
	hookReplyMax = 64 << 10 // bytes of an answer; a longer one is a refusal
	hookCacheMax = 65_536   // answers that are remembered; beyond it those not used for longest go
	// After breakAfter questions in a row that the server was not there to answer, it is
	// left alone: for breakFirst, then twice as long each time, up to breakMost. Then one
	// question tries again.
	breakAfter = 5
	breakFirst = 5 * time.Second
	breakMost  = 2 * time.Minute
)

// Hook asks an HTTP server who a Client is: for a user base that lives elsewhere. It
// sends a POST with a [HookRequest] and expects a [HookReply], both JSON:
//
//	{"clientid":"c1","username":"ann","password":"…","source":"192.0.2.7","protocol":"5.0",…}
//	{"result":"allow","groups":["staff"],"attrs":{"site":"a"},"expires":1800000000}
//
// It fails closed: a server that is down, slow or says what can't be gets nobody in.
type Hook struct {
	o      HookOptions
	remote *remote
	turns  chan struct{} // holds a token for each question under way
	queue  chan struct{} // and for each that waits

	key   [sha256.Size]byte
	mu    sync.Mutex // guards what follows
	cache *recent[[sha256.Size]byte, remembered]
	lost  int       // questions in a row that the server was not there to answer
	until time.Time // when the next may be asked, if lost is at least breakAfter
	trial bool      // the one that tries again is under way
}

// remembered is an answer and how long it counts.
type remembered struct {
	reply *HookReply
	until time.Time
}

// HookRequest is what the server is asked.
type HookRequest struct {
	ClientID string `json:"clientid"`
	UserName string `json:"username"`
	Password string `json:"password,omitempty"`
	// PasswordBase64 is there instead of Password if that is not UTF-8.
	PasswordBase64 []byte `json:"password_base64,omitempty"`
	Device         string `json:"device,omitempty"` // whose certificate the connection shows
	Source         string `json:"source"`           // the Client's IP address
	Protocol       string `json:"protocol"`         // 3.1, 3.1.1 or 5.0
	Listener       string `json:"listener"`
	Scheme         string `json:"scheme"` // mqtt, mqtts, ws, wss, unix
}

// HookReply is what the server answers. Fields beside these are an error, and so are
// fields of another type: whoever answers something else means something else.
type HookReply struct {
	Result string            // allow, deny, or ignore: the next method is asked
	User   string            // with allow: who it is,
	Device string            // or which device; if neither is given, the user that was asked for
	Groups []string          // beside those in the registry
	Attrs  map[string]string // beside those in the registry
	// Expires is when the connection ends, in seconds of Unix time; 0: never.
	Expires int64
}

// NewHook makes a Hook. The error says which option is wrong.
func NewHook(o HookOptions) (*Hook, error) {
	o.Timeout = orDefault(o.Timeout, 5*time.Second)
	o.AllowFor = orDefault(o.AllowFor, time.Minute)
	o.DenyFor = orDefault(o.DenyFor, 5*time.Second)
	if o.Timeout < 0 {
		return nil, errors.New("auth hook: a negative timeout")
	}
	r, err := newRemote(o.URL, o.TLS, o.Timeout)
	if err != nil {
		return nil, fmt.Errorf("auth hook: %w", err)
	}
	h := &Hook{
		o: o, remote: r, turns: make(chan struct{}, hookAtOnce), queue: make(chan struct{}, hookWaiting),
		cache: newRecent[[sha256.Size]byte, remembered](hookCacheMax),
	}
	rand.Read(h.key[:])
	return h, nil
}

func orDefault(d, instead time.Duration) time.Duration {
	if d == 0 {
		return instead
	}
	return d
}

// Name implements [Method].
func (*Hook) Name() string { return "hook" }

func (h *Hook) judge(a *attempt) answer {
	q := h.question(a)
	if !a.Connect.HasUser && !a.Connect.HasPassword && q.Device == "" {
		return answer{}
	}
	who := q.UserName
	if !a.Connect.HasUser {
		who = q.ClientID
	}
	if n := a.guess(who, a.Connect.Password); n != nil {
		return answer{no: n}
	}
	reply, err := h.ask(q, a.chain.o.Now)
	if err != nil {
		code := mqtt.ServerUnavailable
		if errors.Is(err, errHookBusy) {
			code = mqtt.ServerBusy
		}
		return answer{no: &no{code: code, identity: who, why: fmt.Sprintf("auth hook: %v", err)}}
	}
	return h.answer(q, who, reply)
}

func (h *Hook) question(a *attempt) *HookRequest {
	q := &HookRequest{
		ClientID: a.Connect.ClientID, UserName: a.Connect.User, Protocol: a.Connect.Version.String(),
		Listener: a.Info.Listener, Scheme: a.Info.Scheme,
	}
	if p := sourceAddr(&a.Info); p.IsValid() {
		q.Source = p.String()
	}
	if h.o.Device != nil {
		q.Device = h.o.Device(&a.Info)
	}
	if utf8.Valid(a.Connect.Password) {
		q.Password = string(a.Connect.Password)
	} else {
		q.PasswordBase64 = a.Connect.Password
	}
	return q
}

// answer makes of a reply what it means here.
func (h *Hook) answer(q *HookRequest, who string, r *HookReply) answer {
	switch r.Result {
	case "ignore":
		return answer{}
	case "deny":
		return answer{no: &no{code: mqtt.BadUserNameOrPassword, identity: who, why: "auth hook: it denies", guess: true}}
	}
	p := &proof{
		method: h.Name(), device: r.Device, user: r.User, groups: r.Groups, attrs: r.Attrs,
		vouchedUser: true, vouchedDevice: h.o.Unregistered,
	}
	if p.device == "" && p.user == "" {
		p.user = q.UserName
	}
	if p.device == "" && p.user == "" {
		return answer{no: &no{code: mqtt.NotAuthorized, identity: who, why: "auth hook: it allows, and names nobody"}}
	}
	if r.Expires != 0 {
		p.expires = time.Unix(r.Expires, 0)
	}
	return answer{proof: p}
}

var (
	errHookBusy = errors.New("too many questions wait for it")
	errHookDown = errors.New("it did not answer before and is left alone for now")
)

// ask answers from memory or asks the server.
func (h *Hook) ask(q *HookRequest, now func() time.Time) (*HookReply, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, h.key[:])
	mac.Write(body)
	key := [sha256.Size]byte(mac.Sum(nil))
	if r := h.recall(key, now()); r != nil {
		return r, nil
	}
	if !h.mayAsk(now()) {
		return nil, errHookDown
	}
	text, err := h.post(body)
	if errors.Is(err, errHookBusy) {
		return nil, err
	}
	h.answered(!isLost(err), now())
	if err != nil {
		return nil, err
	}
	r, err := parseReply(text, now())
	if err != nil {
		return nil, err
	}
	r.Groups = grantable(r.Groups, h.o.Only)
	h.remember(key, r, now())
	return r, nil
}

func (h *Hook) recall(key [sha256.Size]byte, now time.Time) *HookReply {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.cache.get(key)
	if !ok || !now.Before(e.until) {
		return nil
	}
	return e.reply
}

func (h *Hook) remember(key [sha256.Size]byte, r *HookReply, now time.Time) {
	until := now.Add(h.o.DenyFor)
	if r.Result == "allow" {
		until = now.Add(h.o.AllowFor)
	}
	if ends := time.Unix(r.Expires, 0); r.Expires != 0 && ends.Before(until) {
		until = ends
	}
	if !now.Before(until) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cache.put(key, remembered{r, until})
}

// mayAsk reports whether the server is to be asked. After a pause one question tries
// again; the others wait for its end, or for its time limit.
func (h *Hook) mayAsk(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost < breakAfter {
		return true
	}
	if now.Before(h.until) {
		return false
	}
	h.trial, h.until = true, now.Add(h.o.Timeout)
	return true
}

// answered counts whether the server was there. Questions that were under way when the
// pause began count no more.
func (h *Hook) answered(yes bool, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if yes {
		h.lost, h.trial = 0, false
		return
	}
	if h.lost >= breakAfter && !h.trial {
		return
	}
	h.trial = false
	if h.lost++; h.lost >= breakAfter {
		h.until = now.Add(min(breakFirst<<min(h.lost-breakAfter, 16), breakMost))
	}
}

// isLost reports whether an error means that the server is not there, rather than that
// it can't cope with this one question: strangers choose the questions, and must not be
// able to shut others out.
func isLost(err error) bool {
	if s := statusError(0); errors.As(err, &s) {
		return s == http.StatusTooManyRequests || s >= http.StatusBadGateway && s <= http.StatusGatewayTimeout
	}
	return err != nil && !errors.Is(err, errStrange)
}

// post asks the server, once it is this question's turn.
func (h *Hook) post(body []byte) ([]byte, error) {
	select {
	case h.queue <- struct{}{}:
		defer func() { <-h.queue }()
	default:
		return nil, errHookBusy
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.o.Timeout)
	defer cancel()
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return nil, errHookBusy
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.remote.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range h.o.Header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	text, resp, err := h.remote.do(req, hookReplyMax)
	if err != nil {
		return nil, err
	}
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "application/json" {
		return nil, fmt.Errorf("its answer is of type %q: %w", t, errStrange)
	}
	return text, nil
}
