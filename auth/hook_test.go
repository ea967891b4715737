package auth

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/listen"
	"fairlead/mqtt"
)

// userBase is an HTTP server that is asked who Clients are.
type userBase struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []HookRequest
	header http.Header
}

func newUserBase(t *testing.T, answer http.HandlerFunc) *userBase {
	u := &userBase{answer: answer}
	u.Server = httptest.NewTLSServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *userBase) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q HookRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	u.mu.Lock()
	u.asked, u.header = append(u.asked, q), r.Header
	answer := u.answer
	u.mu.Unlock()
	answer(w, r)
}

func (u *userBase) set(answer http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

func (u *userBase) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

// replies answers with JSON.
func replies(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, text)
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func hookBench(t *testing.T, u *userBase, change ...func(*HookOptions)) *bench {
	t.Helper()
	o := HookOptions{URL: u.URL + "/auth", TLS: trusting(u.Server)}
	for _, f := range change {
		f(&o)
	}
	h, err := NewHook(o)
	if err != nil {
		t.Fatal(err)
	}
	return newBench(t, h, &says{name: "after"})
}

func TestHook(t *testing.T) {
	u := newUserBase(t, replies(`{"result":"allow","user":"ann","groups":["staff","admin"],"attrs":{"site":"a"},"expires":1793534460}`))
	b := hookBench(t, u, func(o *HookOptions) {
		o.Header = http.Header{"authorization": {"Bearer x"}}
		o.Device = func(i *listen.Info) string { return i.CommonName }
	})
	c := by("2001:db8::1", "c-1", "annie", "pass")
	c.Info.CommonName = "laptop"
	id := b.accept(c)
	if id.User != "ann" || id.Method != "hook" || !slices.Equal(id.Groups, []string{"staff"}) || !maps.Equal(id.Attrs, map[string]string{"site": "a"}) {
		t.Errorf("accepted %+v", id.Principal)
	}
	if !id.Expires.Equal(time.Unix(1793534460, 0)) {
		t.Errorf("expires %v", id.Expires)
	}
	want := HookRequest{
		ClientID: "c-1", UserName: "annie", Password: "pass", Device: "laptop", Source: "2001:db8::1",
		Protocol: "5.0", Listener: "main", Scheme: "mqtts",
	}
	if got := fmt.Sprint(u.asked[0]); got != fmt.Sprint(want) || u.header.Get("Authorization") != "Bearer x" {
		t.Errorf("asked %s with %v, want %v", got, u.header, want)
	}
	binary := by(faraway, "c", "annie", "\xff\x00")
	b.accept(binary)
	if q := u.asked[1]; q.Password != "" || string(q.PasswordBase64) != "\xff\x00" {
		t.Errorf("asked %+v", q)
	}
	b.refuse(bare(faraway, "c"), mqtt.NotAuthorized) // shows nothing
	if n := u.count(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

func TestHookAnswers(t *testing.T) {
	for reply, want := range map[string]mqtt.ReasonCode{
		`{"result":"allow"}`:                           mqtt.Success,
		`{"result":"allow","user":"zoe"}`:              mqtt.Success,
		`{"result":"allow","device":"pump"}`:           mqtt.Success,
		`{"result":"allow","device":"pump:1"}`:         mqtt.ServerUnavailable,
		`{"result":"allow","device":"valve"}`:          mqtt.ClientIdentifierNotValid,
		`{"result":"allow","device":"unknown"}`:        mqtt.NotAuthorized,
		`{"result":"allow","user":"disabled"}`:         mqtt.NotAuthorized,
		`{"result":"deny"}`:                            mqtt.BadUserNameOrPassword,
		`{"result":"ignore"}`:                          mqtt.NotAuthorized, // nobody else says yes
		``:                                             mqtt.ServerUnavailable,
		`null`:                                         mqtt.ServerUnavailable,
		`[]`:                                           mqtt.ServerUnavailable,
		`{}`:                                           mqtt.ServerUnavailable,
		`{"result":"ALLOW"}`:                           mqtt.ServerUnavailable,
		`{"Result":"allow"}`:                           mqtt.ServerUnavailable,
		`{"result":true}`:                              mqtt.ServerUnavailable,
		`{"result":"deny","result":"allow"}`:           mqtt.ServerUnavailable,
		`{"result":"allow"}{"result":"deny"}`:          mqtt.ServerUnavailable,
		`{"result":"allow","admin":true}`:              mqtt.ServerUnavailable,
		`{"result":"allow","user":7}`:                  mqtt.ServerUnavailable,
		`{"result":"allow","user":null}`:               mqtt.ServerUnavailable,
		`{"result":"allow","user":"#"}`:                mqtt.ServerUnavailable,
		`{"result":"allow","device":"a/b"}`:            mqtt.ServerUnavailable,
		`{"result":"allow","device":"a+"}`:             mqtt.ServerUnavailable,
		`{"result":"allow","user":"a\u0000"}`:          mqtt.ServerUnavailable,
		"{\"result\":\"allow\",\"user\":\"a\xff\"}":    mqtt.ServerUnavailable,
		`{"result":"allow","groups":"a/b"}`:            mqtt.ServerUnavailable,
		`{"result":"allow","groups":[7]}`:              mqtt.ServerUnavailable,
		`{"result":"allow","groups":{}}`:               mqtt.ServerUnavailable,
		`{"result":"allow","attrs":[]}`:                mqtt.ServerUnavailable,
		`{"result":"allow","attrs":{"a":7}}`:           mqtt.ServerUnavailable,
		`{"result":"allow","attrs":{"a/b":"x"}}`:       mqtt.ServerUnavailable,
		`{"result":"allow","attrs":{"a":"x","a":"y"}}`: mqtt.ServerUnavailable,
		`{"result":"allow","attrs":{"a":"\u001b[2J"}}`: mqtt.ServerUnavailable,
		`{"result":"allow","attrs":{"a":"` + strings.Repeat("x", valueMax+1) + `"}}`: mqtt.ServerUnavailable,
		`{"result":"allow","expires":"tomorrow"}`:                                    mqtt.ServerUnavailable,
		`{"result":"allow","expires":1.5}`:                                           mqtt.ServerUnavailable,
		`{"result":"allow","expires":-1}`:                                            mqtt.ServerUnavailable,
		`{"result":"allow","expires":1e300}`:                                         mqtt.ServerUnavailable,
		`{"result":"allow","expires":1000000000}`:                                    mqtt.ServerUnavailable,
		`{"result":"allow","attrs":{"a":{"b":{"c":{"d":1}}}}`:                        mqtt.ServerUnavailable,
		`{"result":"allow","user":"` + strings.Repeat("x", hookReplyMax) + `"}`:      mqtt.ServerUnavailable,
		strings.Repeat("[", 10_000):                                                  mqtt.ServerUnavailable,
	} {
		b := hookBench(t, newUserBase(t, replies(reply)))
		b.reg.device("pump")
		b.reg.device("valve")
		b.reg.user("disabled", "", func(u *User) { u.Disabled = true })
		c := by(faraway, "pump", "annie", "pass")
		if !strings.Contains(reply, "device") {
			c.Connect.ClientID = "c"
		}
		if want.Failed() {
			r := b.refuse(c, want)
			if want == mqtt.ServerUnavailable && (!strings.HasPrefix(r.Why, "auth hook: its answer") || len(r.Why) > 1000) {
				t.Errorf("%.100s: the operator is told %q", reply, r.Why)
			}
			continue
		}
		b.accept(c)
	}
}

func TestHookThatDoesNotAnswer(t *testing.T) {
	for what, answer := range map[string]http.HandlerFunc{
		"status 500":   status(500),
		"status 204":   status(204),
		"a redirect":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusTemporaryRedirect) },
		"another type": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"result":"allow"}`) },
		"half":         func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"res`); panic(http.ErrAbortHandler) },
	} {
		u := newUserBase(t, answer)
		b := hookBench(t, u)
		r := b.refuse(by(faraway, "c", "annie", "pass"), mqtt.ServerUnavailable)
		if strings.Contains(r.Why, "pass") {
			t.Errorf("%s: the password is told: %q", what, r.Why)
		}
		if n := u.count(); n != 1 {
			t.Errorf("%s: asked %d times, want once", what, n)
		}
	}
	u := newUserBase(t, replies(`{"result":"allow"}`))
	b := hookBench(t, u, func(o *HookOptions) { o.TLS = nil }) // its certificate is from nobody we know
	b.refuse(by(faraway, "c", "annie", "pass"), mqtt.ServerUnavailable)
	if n := u.count(); n != 0 {
		t.Errorf("a server that can't be verified was told %v", u.asked)
	}
}

// A slow server: attempts wait within the time limit, and no longer. The transport is
// one that never answers, so that the clock can be turned.
func TestHookThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := NewHook(HookOptions{URL: "https://id.example/", Timeout: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		h.remote.client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		b := newBench(t, h)
		b.Chain.o.Now = time.Now
		begin := time.Now()
		b.refuse(by(faraway, "c", "annie", "pass"), mqtt.ServerUnavailable)
		if d := time.Since(begin); d != 2*time.Second {
			t.Errorf("refused after %v, want 2s", d)
		}
		codes := make(chan mqtt.ReasonCode, hookAtOnce+1)
		for i := range hookAtOnce + 1 {
			go func() {
				_, v := b.Authenticate(by(faraway, "c", fmt.Sprint("user", i), "pass"))
				codes <- v.Code
			}()
		}
		got := map[mqtt.ReasonCode]int{}
		for range cap(codes) {
			got[<-codes]++
		}
		if got[mqtt.ServerUnavailable]+got[mqtt.ServerBusy] != cap(codes) || time.Since(begin) != 4*time.Second {
			t.Errorf("%v after %v", got, time.Since(begin))
		}
		// By now it is left alone: the answer comes at once.
		begin = time.Now()
		r := b.refuse(by(faraway, "c", "annie", "pass"), mqtt.ServerUnavailable)
		if time.Since(begin) != 0 || !strings.Contains(r.Why, "left alone") {
			t.Errorf("after %v: %+v", time.Since(begin), r)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestHookQueueIsLimited(t *testing.T) {
	u := newUserBase(t, replies(`{"result":"allow"}`))
	h, err := NewHook(HookOptions{URL: u.URL, TLS: trusting(u.Server)})
	if err != nil {
		t.Fatal(err)
	}
	for range hookWaiting {
		h.queue <- struct{}{}
	}
	b := newBench(t, h)
	b.refuse(by(faraway, "c", "annie", "pass"), mqtt.ServerBusy)
	<-h.queue
	b.accept(by(faraway, "c", "annie", "pass"))
}

func TestHookBreaker(t *testing.T) {
	u := newUserBase(t, status(503))
	b := hookBench(t, u)
	n := 0
	ask := func(want mqtt.ReasonCode, asked int) {
		t.Helper()
		n++
		c := by(fmt.Sprintf("203.0.113.%d", n), "c", fmt.Sprint("user", n), "pass") // each another
		if want.Failed() {
			b.refuse(c, want)
		} else {
			b.accept(c)
		}
		if got := u.count(); got != asked {
			t.Errorf("the server was asked %d times, want %d", got, asked)
		}
	}
	for i := range breakAfter {
		ask(mqtt.ServerUnavailable, i+1)
	}
	ask(mqtt.ServerUnavailable, breakAfter) // left alone
	b.clock.advance(breakFirst)
	ask(mqtt.ServerUnavailable, breakAfter+1) // one tries
	b.clock.advance(breakFirst)
	ask(mqtt.ServerUnavailable, breakAfter+1) // twice as long
	b.clock.advance(breakFirst)
	u.set(replies(`{"result":"allow"}`))
	ask(mqtt.Success, breakAfter+2)
	ask(mqtt.Success, breakAfter+3)
}

// A stranger who finds a name that the server can't cope with must not shut others out.
func TestHookIsNotLeftAloneForOneQuestion(t *testing.T) {
	u := newUserBase(t, status(500))
	b := hookBench(t, u)
	for i := range 2 * breakAfter {
		if i%2 == 0 {
			u.set(replies(`nonsense`))
		}
		b.refuse(by(faraway, "c", fmt.Sprint("user", i), "pass"), mqtt.ServerUnavailable)
	}
	u.set(replies(`{"result":"allow"}`))
	b.accept(by(faraway, "c", "annie", "pass"))
}

func TestHookBreakerOpensOnce(t *testing.T) {
	h, err := NewHook(HookOptions{URL: "https://id.example/"})
	if err != nil {
		t.Fatal(err)
	}
	now := newClock().now
	for range 64 { // all were under way when it went down
		h.answered(false, now)
	}
	if want := now.Add(breakFirst); !h.until.Equal(want) {
		t.Errorf("left alone until %v, want %v", h.until, want)
	}
	now = now.Add(breakFirst)
	if !h.mayAsk(now) || h.mayAsk(now) {
		t.Error("not exactly one tries again")
	}
	for range 20 {
		h.answered(false, now)
		now = h.until
		h.mayAsk(now)
	}
	h.answered(false, now)
	if d := h.until.Sub(now); d != breakMost {
		t.Errorf("left alone for %v at last, want %v", d, breakMost)
	}
}

func TestHookAnswersAreRemembered(t *testing.T) {
	u := newUserBase(t, replies(`{"result":"allow"}`))
	b := hookBench(t, u)
	want := func(n int) {
		t.Helper()
		if got := u.count(); got != n {
			t.Errorf("asked %d times, want %d", got, n)
		}
	}
	c := by(faraway, "c", "annie", "pass")
	b.accept(c)
	u.set(replies(`{"result":"deny"}`))
	b.accept(c)
	want(1)
	b.refuse(by(faraway, "c", "annie", "other"), mqtt.BadUserNameOrPassword) // another question
	b.refuse(by(faraway, "d", "annie", "pass"), mqtt.BadUserNameOrPassword)
	b.refuse(by(faraway, "d", "annie", "pass"), mqtt.BadUserNameOrPassword)
	want(3)
	b.clock.advance(5 * time.Second)
	b.refuse(by(faraway, "d", "annie", "pass"), mqtt.BadUserNameOrPassword)
	want(4)
	b.clock.advance(55 * time.Second)
	b.refuse(c, mqtt.BadUserNameOrPassword)
	want(5)

	ends := b.clock.now.Add(10 * time.Second)
	u.set(replies(fmt.Sprintf(`{"result":"allow","expires":%d}`, ends.Unix())))
	b.clock.advance(5 * time.Second)
	b.accept(c)
	b.clock.advance(5 * time.Second)
	b.refuse(c, mqtt.ServerUnavailable) // it says again what is past by now
	want(7)

	u.set(replies(`{"result":"allow"}`))
	b = hookBench(t, u, func(o *HookOptions) { o.AllowFor = -1 })
	b.accept(c)
	b.accept(c)
	want(9)
}

// A wrong password that two methods look at is one failure.
func TestTwoMethodsCountOneFailure(t *testing.T) {
	u := newUserBase(t, replies(`{"result":"deny"}`))
	h, err := NewHook(HookOptions{URL: u.URL, TLS: trusting(u.Server)})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, cheapPassword(), h)
	b.fail(faraway, "annie", freeFailures)
	if n := u.count(); n != freeFailures {
		t.Errorf("asked %d times, want %d", n, freeFailures)
	}
	b.refuse(by(faraway, "c", "annie", "pass"), mqtt.ConnectionRateExceeded)
}

// Who has no user name is slowed by what it calls itself instead.
func TestHookWithoutUserName(t *testing.T) {
	u := newUserBase(t, replies(`{"result":"allow"}`))
	b := hookBench(t, u)
	c := by(faraway, "c-9", "", "pass")
	c.Connect.HasUser = false
	if r := b.refuse(c, mqtt.NotAuthorized); r.Identity != "c-9" || !strings.Contains(r.Why, "names nobody") {
		t.Errorf("told %+v", r)
	}
}

func TestHookOptionsAreChecked(t *testing.T) {
	for _, o := range []HookOptions{
		{}, {URL: "http://id.example/"}, {URL: "http://192.0.2.1/"}, {URL: "file:///etc/passwd"}, {URL: "https://a:b@id.example/"},
		{URL: "https://id.example/", Timeout: -1},
	} {
		if _, err := NewHook(o); err == nil {
			t.Errorf("NewHook(%+v) = nil, want an error", o)
		}
	}
	if err := onlyLoopback("tcp", "192.0.2.1:80", nil); err == nil {
		t.Error("a name that means another machine is dialled over http")
	}
	plain := httptest.NewServer(replies(`{"result":"allow"}`))
	defer plain.Close()
	h, err := NewHook(HookOptions{URL: plain.URL})
	if err != nil {
		t.Fatal(err)
	}
	newBench(t, h).accept(by(faraway, "c", "annie", "pass"))
}

func FuzzHookReply(f *testing.F) {
	f.Add([]byte(`{"result":"allow","user":"ann","device":"pump","groups":["a"],"attrs":{"k":"v"},"expires":1893456000}`))
	f.Add([]byte(`{"result":"deny","result":"allow"}`))
	f.Add([]byte(`{"result":"allow","attrs":{"a":{"b":[[[]]]}}}`))
	now := newClock().now
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseReply(text, now)
		if err != nil {
			if r != nil {
				t.Errorf("%q: both a reply and %v", text, err)
			}
			return
		}
		if r.Result != "allow" && r.Result != "deny" && r.Result != "ignore" || r.Expires != 0 && r.Expires <= now.Unix() {
			t.Errorf("%q gives %+v", text, r)
		}
		for _, name := range slices.Concat(r.Groups, []string{r.Device, r.User}) {
			if strings.ContainsAny(name, "/+#\x00") {
				t.Errorf("%q gives the name %q", text, name)
			}
		}
		var twin map[string]any
		if json.Unmarshal(text, &twin) != nil {
			t.Errorf("%q is no JSON for encoding/json", text)
		}
	})
}
