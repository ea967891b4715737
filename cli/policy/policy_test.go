package policy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/cli/clitest"
)

const good = "policies:\n  sensors:\n    who: {groups: sensors}\n    allow:\n      - publish: plant/#\n"

// policyFile writes a document, and returns its path.
func policyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sensors.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestApply(t *testing.T) {
	b := clitest.NewBroker(t)
	path := policyFile(t, good)
	b.On("PUT /v1/policies/sensors.yaml", admin.Policy{Name: "sensors.yaml", Text: good, Version: 3})
	clitest.Run(t, Command, "", "apply", path, "--data", b.Dir).Want(t, 0, "sensors.yaml is in force, version 3\n", "")
	asked := b.Asked()
	if len(asked) != 1 || asked[0].Body != good || asked[0].Header.Get("If-Match") != "" {
		t.Errorf("asked: %+v", asked)
	}
	clitest.Run(t, Command, "", "apply", path, "--if-version", "2", "--data", b.Dir).Want(t, 0, "sensors.yaml is in force, version 3\n", "")
	if asked = b.Asked(); len(asked) != 1 || asked[0].Header.Get("If-Match") != `"2"` {
		t.Errorf("asked: %+v", asked)
	}
	b.On("PUT /v1/policies/other", admin.Policy{Name: "other", Text: good, Version: 1})
	r := clitest.Run(t, Command, good, "apply", "-", "--name", "other", "--json", "--data", b.Dir)
	var p admin.Policy
	if err := json.Unmarshal([]byte(r.Out), &p); err != nil || r.Code != 0 || p.Version != 1 {
		t.Errorf("exit code %d, %v, %s%s", r.Code, err, r.Out, r.Err)
	}
	b.Refuse("PUT /v1/policies/sensors.yaml", 412, "sensors.yaml has version 5")
	clitest.Run(t, Command, "", "apply", path, "--if-version", "2", "--data", b.Dir).Want(t, 1, "", "sensors.yaml has version 5")
}

// TestErrorsInFiles finds them before anything is sent, with their places in the file.
func TestErrorsInFiles(t *testing.T) {
	b := clitest.NewBroker(t)
	path := policyFile(t, "policies:\n  sensors:\n    who: {groups: sensors}\n    alow:\n      - publish: plant/#/x\n")
	for _, args := range [][]string{{"apply", path}, {"diff", path}, {"check", "t1", "publish", "a", "--with", path}, {"check", "--with", path}} {
		r := clitest.Run(t, Command, "", append(args, "--data", b.Dir)...)
		if r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "nothing was sent") || !strings.Contains(r.Err, path+":4:5: ") {
			t.Errorf("%v: exit code %d, %q, %q", args, r.Code, r.Out, r.Err)
		}
	}
	r := clitest.Run(t, Command, "policies: [", "apply", "-", "--name", "x.yaml", "--data", b.Dir)
	if r.Code != 1 || !strings.Contains(r.Err, "x.yaml:1:") {
		t.Errorf("standard input: exit code %d, %q", r.Code, r.Err)
	}
	b.WantAsked()
	path = policyFile(t, good)
	clitest.Run(t, Command, "", "check", "--with", path).Want(t, 0, path+": no errors\n", "") // and no broker is needed
}

func TestShow(t *testing.T) {
	b := clitest.NewBroker(t)
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	b.On("GET /v1/policies", admin.List[admin.Policy]{Items: []admin.Policy{{Name: "base.yaml"}, {Name: "sensors.yaml", Version: 3, Applied: &at, By: "anna"}}})
	clitest.Run(t, Command, "", "show", "--data", b.Dir).Want(t, 0, `NAME          VERSION  SINCE                BY
base.yaml     0        -                    the configuration
sensors.yaml  3        2026-11-25 12:00:00  anna
`, "")
	b.On("GET /v1/policies/sensors.yaml", admin.Policy{Name: "sensors.yaml", Text: good})
	clitest.Run(t, Command, "", "show", "sensors.yaml", "--data", b.Dir).Want(t, 0, good, "")
	b.On("GET /v1/policies", admin.List[admin.Policy]{Items: []admin.Policy{}})
	clitest.Run(t, Command, "", "show", "--data", b.Dir).Want(t, 0, "none but those that are always there: a device has its own topics\n", "")
	clitest.Run(t, Command, "", "show", "--json", "--data", b.Dir).Want(t, 0, "[]\n", "")
}

func TestCheck(t *testing.T) {
	b := clitest.NewBroker(t)
	const question = "POST /v1/policies/check"
	b.On(question, admin.Answer{Allowed: true, Place: "sensors.yaml:5:9", Sentence: `allowed to publish to "plant/a": policy "sensors" (sensors.yaml:5:9) says allow publish plant/#`})
	clitest.Run(t, Command, "", strings.Fields("check t1 publish plant/a -q 1 --retain --bytes 20 --client t1:x --data "+b.Dir)...).
		Want(t, 0, "t1: allowed to publish to \"plant/a\": policy \"sensors\" (sensors.yaml:5:9) says allow publish plant/#\n", "")
	b.WantAsked(question + ` {"device":"t1","client":"t1:x","action":"publish","topic":"plant/a","qos":1,"retain":true,"bytes":20}`)

	b.On(question, admin.Answer{Code: 0x87, Sentence: "refused to connect: no"})
	clitest.Run(t, Command, "", strings.Fields("check --user anna connect --data "+b.Dir)...).Want(t, 1, "anna: refused to connect: no\n", "")
	b.WantAsked(question + ` {"user":"anna","action":"connect"}`)
	r := clitest.Run(t, Command, "", strings.Fields("check anna connect --json --data "+b.Dir)...)
	var a admin.Answer
	if err := json.Unmarshal([]byte(r.Out), &a); r.Code != 1 || err != nil || a.Allowed || a.Code != 0x87 {
		t.Errorf("exit code %d, %v, %s", r.Code, err, r.Out)
	}
	b.Asked()

	path := policyFile(t, good)
	clitest.Run(t, Command, "", "check", "t1", "subscribe", "#", "--with", path, "--data", b.Dir)
	text, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	b.WantAsked(question + ` {"device":"t1","action":"subscribe","topic":"#","text":` + string(text) + `,"text_for":"sensors.yaml"}`)
}

func TestDiff(t *testing.T) {
	b := clitest.NewBroker(t)
	path := policyFile(t, good)
	b.On("POST /v1/policies/diff?name=sensors.yaml", admin.Diff{
		Members: []admin.MemberDiff{
			{Name: "t1", Client: "t1:x", Connected: true,
				Lost:   []admin.Difference{{Action: "subscribe", Topic: "plant/+/settings", Used: true, Why: "no rule allows it"}},
				Gained: []admin.Difference{{Action: "publish", Topic: "plant/#"}}},
			{Name: "t2", Client: "t2", Limits: &admin.LimitsDiff{After: admin.Limits{Messages: "10/s", Subscriptions: 5}}},
		},
		Total: 12, Of: 1200,
	})
	clitest.Run(t, Command, "", "diff", path, "--data", b.Dir).Want(t, 0, `12 of 1,200 would gain or lose something

t1 (client t1:x, connected)
 !- subscribe plant/+/settings  (no rule allows it)
  + publish plant/#

t2
    limits: 10/s messages, 5 subscriptions; now: none

… and 10 more
`, "")
	b.On("POST /v1/policies/diff?name=x", admin.Diff{Of: 3})
	clitest.Run(t, Command, good, "diff", "-", "--name", "x", "--data", b.Dir).Want(t, 0, "nobody would gain or lose anything (of 3)\n", "")
}

func TestBlastRadius(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/policies/blast-radius/t1", admin.Blast{
		Exposure: admin.Exposure{Name: "t1", Score: 5, Commands: 2, Data: 1, Live: 1},
		Writes:   []string{"devices/t1/#", "plant/#"}, WriteDenies: []string{"plant/+/firmware"}, Reads: []string{"devices/t1/#"},
		Retained: []string{"devices/t1/config"}, RetainedTotal: 1,
		Victims: []admin.Victim{
			{Name: "panel", Client: "panel:1", Live: []string{"plant/a", "plant/b"}, Commands: []string{"plant/a"}},
			{Name: "t2", Commands: []string{"plant/t2/#"}, Data: []string{"plant/t2/+"}},
		},
		VictimsTotal: 9,
	})
	const text = `Whoever steals the key of t1 can
  send to 1 other client that is connected now
  command 2 other devices
  read the data of 1 other device
  read 1 retained message
Score: 5

may publish to:
  devices/t1/#
  plant/#
  but not plant/+/firmware

may subscribe to:
  devices/t1/#

reaches, worst first:
  panel (client panel:1)
    connected, hears plant/a, plant/b
    can be commanded by plant/a
`
	clitest.Run(t, Command, "", "blast-radius", "t1", "--limit", "1", "--data", b.Dir).Want(t, 0, text+`  … and 8 more

retained messages that it may read:
  devices/t1/config
`, "")
	clitest.Run(t, Command, "", "blast-radius", "t1", "--above", "5", "--data", b.Dir).Want(t, 0, text+`  t2
    can be commanded by plant/t2/#
    can be read on plant/t2/+
  … and 7 more

retained messages that it may read:
  devices/t1/config
`, "")
	if r := clitest.Run(t, Command, "", "blast-radius", "t1", "--above", "4", "--data", b.Dir); r.Code != 1 || r.Err != "" {
		t.Errorf("above the bound: exit code %d, %q", r.Code, r.Err)
	}
	b.On("GET /v1/policies/blast-radius/t2", admin.Blast{Exposure: admin.Exposure{Name: "t2"}, Writes: []string{"devices/t2/#"}})
	clitest.Run(t, Command, "", "blast-radius", "t2", "--above", "0", "--data", b.Dir).Want(t, 0, `Whoever steals the key of t2 can
  reach nobody else
Score: 0

may publish to:
  devices/t2/#

may subscribe to: nothing
`, "")
}

func TestRank(t *testing.T) {
	b := clitest.NewBroker(t)
	list := admin.List[admin.Exposure]{Items: []admin.Exposure{{Name: "t1", Score: 1205, Commands: 600, Data: 5, Live: 7}, {Name: "anna", User: true}}}
	b.On("GET /v1/policies/blast-radius?above=-1&limit=1000&users=true", list)
	clitest.Run(t, Command, "", "blast-radius", "--all", "--users", "--data", b.Dir).Want(t, 0, `SCORE  COMMANDS  DATA  LIVE  NAME
1,205  600       5     7     t1
0      0         0     0     anna (user)
`, "")
	b.On("GET /v1/policies/blast-radius?above=10&limit=1000", list)
	if r := clitest.Run(t, Command, "", "blast-radius", "--all", "--above", "10", "--data", b.Dir); r.Code != 1 || r.Err != "" || !strings.Contains(r.Out, "t1") {
		t.Errorf("above the bound: exit code %d, %q, %q", r.Code, r.Out, r.Err)
	}
	b.On("GET /v1/policies/blast-radius?above=2000&limit=1000", admin.List[admin.Exposure]{})
	clitest.Run(t, Command, "", "blast-radius", "--all", "--above", "2000", "--data", b.Dir).Want(t, 0, "no score is above 2000\n", "")
	clitest.Run(t, Command, "", "blast-radius", "--all", "--above", "2000", "--json", "--data", b.Dir).Want(t, 0, "[]\n", "")
}

func TestSuggestAndRemove(t *testing.T) {
	b := clitest.NewBroker(t)
	b.On("GET /v1/policies/suggest/t1", admin.Suggestion{Name: "t1", Text: good, Subscribed: 1, Published: 20})
	clitest.Run(t, Command, "", "suggest", "t1", "--data", b.Dir).Want(t, 0, good, "1 subscription and 20 topics were seen")
	b.On("GET /v1/policies/suggest/t1", admin.Suggestion{Name: "t1", Subscribed: 1})
	clitest.Run(t, Command, "", "suggest", "t1", "--data", b.Dir).Want(t, 0, "", "1 subscription and 0 topics were seen, and it may do all that already")
	b.On("GET /v1/policies/suggest/t1", admin.Suggestion{Name: "t1"})
	clitest.Run(t, Command, "", "suggest", "t1", "--data", b.Dir).Want(t, 0, "", "nothing was seen of it")
	b.On("DELETE /v1/policies/sensors.yaml", struct{}{})
	clitest.Run(t, Command, "", "remove", "sensors.yaml", "--data", b.Dir).Want(t, 0, "sensors.yaml is no longer in force\n", "")
}

func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"apply", 2, "expected one FILE"},
		{"apply " + dir + "/none", 1, "no such file"},
		{"apply -", 2, "give --name NAME"},
		{"check", 2, "expected DEVICE"},
		{"check t1", 2, "expected DEVICE"},
		{"check t1 read a", 2, "expected one of publish, subscribe, receive, connect"},
		{"check t1 publish", 2, "expected 3 arguments, got 2"},
		{"check t1 connect a", 2, "expected 2 arguments, got 3"},
		{"check t1 publish a --name x", 2, "--name is for --with FILE"},
		{"check t1 publish a -q 3", 2, "whole number from 0 to 2"},
		{"blast-radius", 2, "expected one DEVICE or --all"},
		{"blast-radius t1 --all", 2, "expected one DEVICE or --all"},
		{"blast-radius t1 --users", 2, "--users is for --all"},
		{"blast-radius --all --above -1", 2, "whole number from 0"},
		{"show a b", 2, "at most one NAME"},
		{"diff a b", 2, "expected one FILE"},
		{"blast-radius t1 --data " + dir, 1, "no broker answers"},
	} {
		r := clitest.Run(t, Command, "", strings.Fields(test.args)...)
		if r.Code != test.code || !strings.Contains(r.Err, test.want) {
			t.Errorf("policy %s: exit code %d, want %d; stderr %q, want %q", test.args, r.Code, test.code, r.Err, test.want)
		}
	}
}
