package ca

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/cli"
	"fairlead/cli/clitest"
)

func TestShow(t *testing.T) {
	b := clitest.NewBroker(t)
	info := admin.CAInfo{Fingerprint: "ab01cd", Revoked: 1200, Expiries: []admin.Expiry{
		{What: "server certificate", NotAfter: time.Now().Add(50*time.Hour + time.Minute), Renews: true},
		{What: "root CA", NotAfter: time.Now().Add(1000*24*time.Hour + time.Minute)},
	}}
	b.On("GET /v1/ca", info)
	r := clitest.Run(t, Command, "", "show", "--data", b.Dir)
	for _, want := range []string{"server certificate  ", "2d 2h; renewed by itself\n", "1000d 0h; nobody renews it\n", "(SHA-256): AB:01:CD\n", "revoked certificates: 1,200\n"} {
		if !strings.Contains(r.Out, want) {
			t.Errorf("no %q in\n%s", want, r.Out)
		}
	}
	if r.Code != 0 || r.Err != "" {
		t.Errorf("exit code %d, %q", r.Code, r.Err)
	}
	info.Expiries[0].NotAfter = time.Now().Add(-3*time.Hour - time.Minute)
	b.On("GET /v1/ca", info)
	if r = clitest.Run(t, Command, "", "show", "--data", b.Dir); r.Code != 1 || r.Err != "" || !strings.Contains(r.Out, "ENDED 3h 1m ago") {
		t.Errorf("ended: exit code %d, %q, %q", r.Code, r.Out, r.Err)
	}
	var got admin.CAInfo
	if r = clitest.Run(t, Command, "", "show", "--json", "--data", b.Dir); r.Code != 1 || json.Unmarshal([]byte(r.Out), &got) != nil || got.Revoked != 1200 {
		t.Errorf("exit code %d, %s", r.Code, r.Out)
	}
}

func TestPEM(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/ca/root.pem", []byte("the root\n"))
	b.On("GET /v1/ca/crl.pem", []byte("the list\n"))
	clitest.Run(t, Command, "", "root", "--data", b.Dir).Want(t, 0, "the root\n", "")
	clitest.Run(t, Command, "", "crl", "--data", b.Dir).Want(t, 0, "the list\n", "")
	clitest.Run(t, Command, "", "crl", "--json", "--data", b.Dir).Want(t, 0, "{\n  \"pem\": \"the list\\n\"\n}\n", "")
	b.Refuse("GET /v1/ca/crl.pem", 409, "this broker has no CA")
	clitest.Run(t, Command, "", "crl", "--data", b.Dir).Want(t, cli.ExitFailed, "", "this broker has no CA")
}
