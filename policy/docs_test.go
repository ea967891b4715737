package policy

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// block is a fenced block of a page; the groups are its language and its text.
var block = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// TestPage parses each example of docs/policies.md, and asks what it says is
// answered.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	var last *Set
	examples, answers := 0, 0
	for _, m := range block.FindAllStringSubmatch(string(page), -1) {
		switch m[1] {
		case "yaml":
			examples++
			last = mustCompile(t, m[2])
		case "answers":
			answers += strings.Count(m[2], "\n")
			want(t, last.For(&Principal{Device: "t1", Groups: []string{"sensors"}, Attrs: map[string]string{"site": "berlin"}}), m[2])
		}
	}
	if examples < 5 || answers < 5 {
		t.Errorf("the page has %d examples and %d answers: is it still read?", examples, answers)
	}
	for _, key := range []string{"connect:", "publish:", "subscribe:", "max_qos:", "retain:", "payload_bytes:", "messages:", "bytes:",
		"subscriptions:", "session_expiry:", "builtin:", "{device}", "{group}", "{user}", "{client}", "{attr.", "everyone", "every device", "every user"} {
		if !strings.Contains(string(page), key) {
			t.Errorf("the page does not mention %s", key)
		}
	}
}
