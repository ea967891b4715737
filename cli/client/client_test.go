package client

import (
	"strings"
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/cli/clitest"
)

func TestList(t *testing.T) {
	b := clitest.NewBroker(t)
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	b.On("GET /v1/clients?connected=true&device=t1&limit=1000&prefix=t", admin.List[admin.ClientInfo]{Items: []admin.ClientInfo{
		{Client: "t1", Device: "t1", Method: "certificate", Connected: true, Remote: "192.0.2.1:5", Since: &at, Subscriptions: make([]admin.Subscription, 2)},
		{Client: "a\x1b[2J", User: "anna"},
	}})
	clitest.Run(t, Command, "", strings.Fields("list --connected --device t1 --prefix t --data "+b.Dir)...).Want(t, 0,
		`CLIENT      WHO        BY           FROM         SINCE                SUBSCRIPTIONS
t1          device t1  certificate  192.0.2.1:5  2026-11-25 12:00:00  2
"a\x1b[2J"  user anna  -            -            away                 0
`, "")
	b.On("GET /v1/clients?connected=false&limit=1000&user=anna", admin.List[admin.ClientInfo]{})
	clitest.Run(t, Command, "", strings.Fields("list --away --user anna --data "+b.Dir)...).Want(t, 0, "no such client\n", "")
}

func TestDisconnect(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("POST /v1/clients/t1:x%2Fy/disconnect", struct{}{})
	clitest.Run(t, Command, "", "disconnect", "t1:x/y", "--reason", "old", "--data", b.Dir).Want(t, 0, "t1:x/y is disconnected\n", "")
	b.WantAsked(`POST /v1/clients/t1:x%2Fy/disconnect {"reason":"old"}`)
	for args, want := range map[string]string{"disconnect": "expected one CLIENT", "list --away --connected": "expected one of them"} {
		if r := clitest.Run(t, Command, "", strings.Fields(args)...); r.Code != 2 || !strings.Contains(r.Err, want) {
			t.Errorf("client %s: exit code %d, %q, want %q", args, r.Code, r.Err, want)
		}
	}
}
