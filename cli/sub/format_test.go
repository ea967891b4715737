package sub

import (
	"testing"
	"time"

	"fairlead/client"
	"fairlead/mqtt"
)

// TestFormats prints one message, and one without a payload, in the ways that the
// flags offer; mosquitto_sub 2.0 prints the same, but for the time of %j.
func TestFormats(t *testing.T) {
	full := &client.Message{Topic: "a/b", Payload: []byte("hello"), QoS: mqtt.QoS1, ID: 7, Retain: true}
	empty := &client.Message{Topic: "a/b"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		c           command
		full, empty string
	}{
		{command{}, "hello", ""},
		{command{verbose: true}, "a/b hello", "a/b (null)"},
		{command{format: "%p|"}, "hello|", "|"},
		{command{format: "%t %q %r %m %l %x %X %%"}, "a/b 1 1 7 5 68656c6c6f 68656C6C6F %", "a/b 0 0 0 0   %"},
		{command{format: "%5t|%-5t|%.1t|%5.1t|"}, "  a/b|a/b  |a|    a|", "  a/b|a/b  |a|    a|"},
		{command{format: "%03l|%-3l|%3l|"}, "005|5  |  5|", "000|0  |  0|"},
		{command{format: "%07p|%7p|%-7p|%.2p"}, "00hello|  hello|hello  |hello", "0000000|       |       |"},
		{command{format: "%A%C%D%E%F%P%R%S|"}, "|", "|"},
		{command{format: `\\\a\e\n\r\t\v\0`}, "\\\a\x1b\n\r\t\v\x00", "\\\a\x1b\n\r\t\v\x00"},
		{command{format: "@Y-@m-@d @H:@M:@S.@N @s @@"}, "2026-01-02 03:04:05.000000000 1767323045 @", "2026-01-02 03:04:05.000000000 1767323045 @"},
		{command{format: "%j"}, `{"tst":"2026-01-02T03:04:05.000000+0000","topic":"a/b","qos":1,"retain":1,"payloadlen":5,"mid":7,"payload":"hello"}`,
			`{"tst":"2026-01-02T03:04:05.000000+0000","topic":"a/b","qos":0,"retain":0,"payloadlen":0,"payload":null}`},
		{command{format: "%J"}, "the payload is not valid JSON",
			`{"tst":"2026-01-02T03:04:05.000000+0000","topic":"a/b","qos":0,"retain":0,"payloadlen":0,"payload":null}`},
	} {
		print, err := test.c.printer()
		if err != nil {
			t.Errorf("-F %q: %v", test.c.format, err)
			continue
		}
		for m, want := range map[*client.Message]string{full: test.full, empty: test.empty} {
			got, err := print(nil, m, at)
			if err != nil {
				got = []byte(err.Error())
			}
			if string(got) != want {
				t.Errorf("-F %q -v %v with %q: %q, want %q", test.c.format, test.c.verbose, m.Payload, got, want)
			}
		}
	}
	for _, bad := range []string{"%", "%z", "@", `\`, `\q`, "%5", "%99999t"} {
		if _, err := compile(bad, false); err == nil {
			t.Errorf("-F %q is accepted", bad)
		}
	}
}
