package token

import (
	"strings"
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/cli/clitest"
)

func TestAdd(t *testing.T) {
	b := clitest.NewBroker(t)
	until := time.Date(2046, 6, 30, 0, 0, 0, 0, time.Local)
	b.On("POST /v1/tokens", admin.IssuedToken{Token: admin.Token{ID: "7kq2", User: "ci", Expires: &until}, Text: "fl_7kq2_secret"})
	// Standard output has the token and nothing else, for a file.
	clitest.Run(t, Command, "", "add", "--user", "ci", "--about", "a pipeline", "--expires", "2046-06-30", "--data", b.Dir).
		Want(t, 0, "fl_7kq2_secret\n", "token 7kq2 stands for user ci, until 2046-06-30 00:00:00. It is shown once")
	asked := b.Asked()
	if len(asked) != 1 || !strings.Contains(asked[0].Body, `"user":"ci","about":"a pipeline","expires":"2046-06-30T00:00:00`) {
		t.Errorf("asked: %+v", asked)
	}
	b.On("POST /v1/tokens", admin.IssuedToken{Token: admin.Token{ID: "8", Device: "lamp-1"}, Text: "fl_8_secret"})
	clitest.Run(t, Command, "", "add", "--device", "lamp-1", "--data", b.Dir).Want(t, 0, "fl_8_secret\n", "stands for device lamp-1, until it is removed")
	b.WantAsked(`POST /v1/tokens {"device":"lamp-1"}`)
}

func TestList(t *testing.T) {
	b := clitest.NewBroker(t)
	day := time.Date(2020, 1, 2, 3, 4, 5, 0, time.Local)
	later := day.AddDate(40, 0, 0)
	b.On("GET /v1/tokens?limit=1000", admin.List[admin.Token]{Items: []admin.Token{
		{ID: "a1", User: "ci", About: "x\x1b[2J", Created: day}, {ID: "b2", Device: "lamp-1", Expires: &day, Created: day}, {ID: "c3", User: "ci", Expires: &later, Created: day},
	}})
	clitest.Run(t, Command, "", "list", "--data", b.Dir).Want(t, 0, `ID  STANDS FOR     UNTIL               ADDED       ABOUT
a1  user ci        removed             2020-01-02  "x\x1b[2J"
b2  device lamp-1  EXPIRED 2020-01-02  2020-01-02  -
c3  user ci        2060-01-02          2020-01-02  -
`, "")
	b.On("DELETE /v1/tokens/a1", struct{}{})
	clitest.Run(t, Command, "", "remove", "a1", "--data", b.Dir).Want(t, 0, "token a1 is worth nothing any more\n", "")
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	for s, want := range map[string]time.Time{
		"90d": now.Add(90 * 24 * time.Hour), "12h": now.Add(12 * time.Hour), "2026-11-26": time.Date(2026, 11, 26, 0, 0, 0, 0, time.Local),
		"2026-11-27T13:00:00Z": time.Date(2026, 11, 27, 13, 0, 0, 0, time.UTC),
	} {
		got, err := expiry(s, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("expiry(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0s", "0d", "-1h", "2026-11-25", "soon", "99999999d"} {
		if got, err := expiry(s, now); err == nil {
			t.Errorf("expiry(%q) = %v, want an error", s, got)
		}
	}
}

func TestWrongCommandLines(t *testing.T) {
	for args, want := range map[string]string{
		"add":                             "whom does it stand for?",
		"add --user a --device b":         "whom does it stand for?",
		"add --user a --expires 2001-1-1": "expected a span like 90d",
		"remove":                          "expected one ID",
	} {
		r := clitest.Run(t, Command, "", strings.Fields(args)...)
		if r.Code != 2 || !strings.Contains(r.Err, want) {
			t.Errorf("token %s: exit code %d, want 2; stderr %q, want %q", args, r.Code, r.Err, want)
		}
	}
}
