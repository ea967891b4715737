package audit

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/audit"
	"fairlead/cli/clitest"
)

// logged is a data directory with a log of two acts and a refusal. No broker runs there.
func logged(t *testing.T) (data string) {
	t.Helper()
	data = t.TempDir()
	l, err := audit.Open(filepath.Join(data, "audit"), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	anna := audit.Actor{Name: "anna", Role: "admin", How: "token"}
	for _, e := range []audit.Entry{
		{Actor: anna, Source: "192.0.2.1:9", Action: "device.add", Object: "t1", After: map[string]any{"name": "t1", "password": audit.Secret("x")}},
		{Actor: anna, Source: "192.0.2.1:9", Action: "device.suspend", Object: "t1", Before: "active", After: "suspended", Reason: "ticket\x1b[2J"},
	} {
		if err := l.Act(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	l.Refuse(audit.Entry{Source: "192.0.2.9:1", Action: "connect", Object: "t1", Reason: "suspended"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestList reads the files: no broker runs.
func TestList(t *testing.T) {
	data := logged(t)
	r := clitest.Run(t, Command, "", "list", "--kind", "act", "-v", "--data", data)
	lines := strings.Split(r.Out, "\n")
	if r.Code != 0 || len(lines) != 4 || !strings.HasPrefix(lines[0], "N  TIME") {
		t.Fatalf("exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
	for i, want := range map[int][]string{
		1: {"2  ", "act", "device.suspend", "t1", "anna (admin, by token)", "192.0.2.1:9", `"ticket\x1b[2J"`, `"active"`, `"suspended"`},
		2: {"1  ", "device.add", `{"name":"t1","password":"***"}`},
	} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("no %q in %s", w, lines[i])
			}
		}
	}
	r = clitest.Run(t, Command, "", "list", "--json", "--data", data)
	var got []admin.AuditEntry
	if err := json.Unmarshal([]byte(r.Out), &got); err != nil || r.Code != 0 || len(got) != 3 {
		t.Fatalf("exit code %d, %v, %s", r.Code, err, r.Out)
	}
	if e := got[0]; e.Kind != "refusal" || e.Object != "t1" || e.Reason != "suspended" || e.Number != 3 || e.Prev != got[1].Hash || len(e.Hash) != 64 || time.Since(e.Time) > time.Hour {
		t.Errorf("the refusal: %+v", e)
	}
	if e := got[1]; string(e.Before) != `"active"` || e.Actor.Name != "anna" || e.Actor.How != "token" {
		t.Errorf("the act: %+v", e)
	}
	// One page after the other.
	r = clitest.Run(t, Command, "", "list", "--limit", "1", "--after", "3", "--data", data)
	if r.Code != 0 || !strings.Contains(r.Out, "device.suspend") || strings.Contains(r.Out, "device.add") || !strings.Contains(r.Err, "--after 2 goes on") {
		t.Errorf("exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
	for _, args := range []string{"--since 2001-01-01 --until 2002-01-01", "--actor bob", "--object t2", "--action user.", "--kind note"} {
		clitest.Run(t, Command, "", append(strings.Fields("list "+args), "--data", data)...).Want(t, 0, "no such entry\n", "")
	}
}

func TestVerify(t *testing.T) {
	data := logged(t)
	r := clitest.Run(t, Command, "", "verify", "--data", data)
	if r.Code != 0 || !strings.Contains(r.Out, "3 entries (1 to 3) in 1 file, ") || !strings.Contains(r.Out, "the last one: 3:") || !strings.HasSuffix(r.Out, "the log is whole\n") {
		t.Errorf("exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
	var report admin.AuditReport
	r = clitest.Run(t, Command, "", "verify", "--json", "--data", data)
	if err := json.Unmarshal([]byte(r.Out), &report); err != nil || !report.OK || report.Last != 3 || report.Wrong == nil {
		t.Errorf("exit code %d, %v, %s", r.Code, err, r.Out)
	}
	kept := "3:" + report.LastHash
	copied := filepath.Join(t.TempDir(), "anchor")
	text, err := os.ReadFile(filepath.Join(data, "audit", "anchor"))
	if err == nil {
		err = os.WriteFile(copied, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r = clitest.Run(t, Command, "", "verify", "--anchor", kept, "--anchor", copied, "--data", data); r.Code != 0 {
		t.Errorf("with its own anchors: exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
	other := "2:" + report.LastHash
	if r = clitest.Run(t, Command, "", "verify", "--anchor", other, "--data", data); r.Code != 1 || !strings.Contains(r.Out, "WRONG: ") || !strings.HasSuffix(r.Out, "the log is NOT what was written\n") {
		t.Errorf("with another anchor: exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
	tamper(t, data)
	if r = clitest.Run(t, Command, "", "verify", "--data", data); r.Code != 1 || r.Err != "" || !strings.Contains(r.Out, ":2: expected ") {
		t.Errorf("after a change: exit code %d, %s%s", r.Code, r.Out, r.Err)
	}
}

// tamper gives the second act to somebody else.
func tamper(t *testing.T, data string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "audit", "audit-*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	lines[1] = strings.Replace(lines[1], "anna", "nora", 1)
	if err := os.WriteFile(files[0], []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNumbers(t *testing.T) {
	var b strings.Builder
	err := printReport(&b, &admin.AuditReport{
		Files: 2, Entries: 1, Bytes: 2048, First: 9, Last: 9, LastHash: "ab", Removed: 8, Lost: 1234, More: 7,
		Wrong: []admin.AuditWrong{{File: "anchor", Expected: "x", Found: "y"}, {File: "audit-1.jsonl", Line: 3, Expected: "z", Found: "u"}},
	})
	const want = `WRONG: anchor: expected x, found y
WRONG: audit-1.jsonl:3: expected z, found u
WRONG: 7 places more
1 entry (9 to 9) in 2 files, 2.0 KiB
the last one: 9:ab
8 older ones were removed because of a limit
1,234 refusals without an entry, because there were too many at once
the log is NOT what was written
`
	if err != nil || b.String() != want {
		t.Errorf("%v, got:\n%swant:\n%s", err, b.String(), want)
	}
}

func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"list --since soon", 2, "expected a time like"},
		{"list --kind x", 2, "expected act, refusal or note"},
		{"list --after t1", 2, "expected the number of an entry"},
		{"verify --anchor " + file, 2, `expected {"n":NUMBER`},
		{"verify --anchor " + dir + "/none", 2, "no such file"},
		{"verify --anchor 99999999999999999999:" + strings.Repeat("0", 64), 2, "expected the number of an entry"},
		{"verify --data " + dir, 1, "there is no audit log in " + dir},
		{"list --data " + dir, 1, "there is no audit log in " + dir},
	} {
		r := clitest.Run(t, Command, "", strings.Fields(test.args)...)
		if r.Code != test.code || !strings.Contains(r.Err, test.want) {
			t.Errorf("audit %s: exit code %d, want %d; stderr %q, want %q", test.args, r.Code, test.code, r.Err, test.want)
		}
	}
}
