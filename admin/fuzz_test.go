package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fairlead/device"
)

// recorder is an answer that has deadlines, as a connection's has.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error  { return nil }
func (recorder) SetWriteDeadline(time.Time) error { return nil }

// FuzzRequest sends anything to the routes: what is no good request is answered with a
// problem that says why, and is never our fault.
func FuzzRequest(f *testing.F) {
	for pattern := range rights {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{name}", "t1", "{id}", "t1", "{device}", "t1", "{serial}", "1f").Replace(path)
		f.Add(method, path, "application/json", `{"name":"t1","device":"t1","action":"publish","topic":"a","rev":1}`)
		f.Add(method, path+"?after=1&limit=2&attr.a=b&rev=1&above=3&since=2026-11-25T00:00:00Z", "text/yaml", "policies: {a: {who: everyone}}")
	}
	fix := newFixture(f)
	fix.device(f, device.Device{Name: "t1"})
	h := fix.guard(func(*http.Request) (*caller, *Problem) {
		return &caller{name: "fuzz", role: admin, how: howToken, source: "192.0.2.1:1", uid: -1}, nil
	})
	f.Fuzz(func(t *testing.T, method, target, contentType, body string) {
		r, err := http.NewRequest(method, "http://fairlead/"+strings.TrimPrefix(target, "/"), strings.NewReader(body))
		if err != nil {
			return
		}
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("If-Match", contentType)
		w := recorder{httptest.NewRecorder()}
		h.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s %q: %d %s", method, target, body, w.Code, w.Body)
		}
		if w.Code < 400 {
			return
		}
		var p Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || p.Detail == "" || w.Header().Get("Content-Type") != problemType {
			t.Errorf("%s %s: %d %q is no problem: %v", method, target, w.Code, w.Body, err)
		}
	})
}
