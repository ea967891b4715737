package user

import (
	"strings"
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/cli/clitest"
)

func anna() admin.User {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	return admin.User{Name: "anna", Role: "operator", Groups: []string{"day", "staff"}, Password: true, Created: at, Updated: at, Rev: 4}
}

func TestAdd(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("POST /v1/users", anna())
	clitest.Run(t, Command, "correct horse\n", strings.Fields("add anna --password-stdin --group staff --group day --role operator --data "+b.Dir)...).
		Want(t, 0, "anna is added, operator, in day, staff\n", "")
	b.WantAsked(`POST /v1/users {"name":"anna","role":"operator","groups":["staff","day"],"password":"correct horse"}`)
	b.On("POST /v1/users", admin.User{Name: "ci"})
	clitest.Run(t, Command, "unread", strings.Fields("add ci --role none --data "+b.Dir)...).Want(t, 0, "ci is added, without a password\n", "")
	b.WantAsked(`POST /v1/users {"name":"ci"}`)
	clitest.Run(t, Command, "", strings.Fields("add anna --password-stdin --data "+b.Dir)...).Want(t, 1, "", "first line is empty")
	b.WantAsked()
}

func TestListAndShow(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/users?limit=1000", admin.List[admin.User]{Items: []admin.User{anna(), {Name: "bob", Disabled: true}}})
	clitest.Run(t, Command, "", "list", "--data", b.Dir).Want(t, 0, `NAME  ROLE      GROUPS     STATE     PASSWORD
anna  operator  day,staff  active    set
bob   -         -          disabled  none
`, "")
	b.On("GET /v1/users/anna", anna())
	clitest.Run(t, Command, "", "show", "anna", "--data", b.Dir).Want(t, 0, `name      anna
role      operator
groups    day, staff
state     active
password  set
added     2026-11-25 12:00:00
changed   2026-11-25 12:00:00
`, "")
}

func TestSet(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/users/anna", anna())
	b.On("PATCH /v1/users/anna", anna())
	for _, test := range []struct{ flags, stdin, want string }{
		{"--group night --no-group day", "", `{"groups":["night","staff"],"rev":4}`},
		{"--role none --disable", "", `{"role":"","disabled":true,"rev":4}`},
		{"--enable", "", `{"disabled":false,"rev":4}`},
		{"--no-password", "", `{"password":"","rev":4}`},
		{"--password-stdin", "a new one\n", `{"password":"a new one","rev":4}`},
	} {
		clitest.Run(t, Command, test.stdin, strings.Fields("set anna "+test.flags+" --data "+b.Dir)...).
			Want(t, 0, "anna is changed, operator, in day, staff\n", "")
		b.WantAsked("GET /v1/users/anna", "PATCH /v1/users/anna "+test.want)
	}
}

func TestRemove(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("DELETE /v1/users/anna", struct{}{})
	clitest.Run(t, Command, "", "remove", "anna", "--data", b.Dir).Want(t, 0, "anna is removed\n", "")
	b.Refuse("DELETE /v1/users/bob", 404, `user "bob": not in the registry`)
	clitest.Run(t, Command, "", "remove", "bob", "--data", b.Dir).Want(t, 1, "", "not in the registry")
}

func TestWrongCommandLines(t *testing.T) {
	for args, want := range map[string]string{
		"add":                         "expected one NAME",
		"add anna --role king":        "expected none, viewer, operator or admin",
		"set anna":                    "nothing to change",
		"set anna --enable --disable": "expected one of them",
		"set anna --password-stdin --no-password": "expected one of them",
		"remove a b":                 "expected one NAME",
		"list anna":                  "expected flags only",
		"add anna --password secret": "unknown flag --password",
	} {
		r := clitest.Run(t, Command, "", strings.Fields(args)...)
		if r.Code != 2 || !strings.Contains(r.Err, want) {
			t.Errorf("user %s: exit code %d, want 2; stderr %q, want %q", args, r.Code, r.Err, want)
		}
	}
}
