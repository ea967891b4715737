package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"fairlead/mqtt"
)

// table24 is table 2-4 of MQTT 5: a property, a value that it may have, and the
// packets that may carry it. WILL stands for the Will Properties.
const table24 = `
01 01         PUBLISH WILL
02 00000001   PUBLISH WILL
03 000161     PUBLISH WILL
08 000161     PUBLISH WILL
09 000161     PUBLISH WILL
0b 01         PUBLISH SUBSCRIBE
11 00000001   CONNECT CONNACK DISCONNECT
12 000161     CONNACK
13 0001       CONNACK
15 000161     CONNECT CONNACK AUTH
16 000161     CONNECT CONNACK AUTH
17 01         CONNECT
18 00000001   WILL
19 01         CONNECT
1a 000161     CONNACK
1c 000161     CONNACK DISCONNECT
1f 000161     CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH
21 0001       CONNECT CONNACK
22 0001       CONNECT CONNACK
23 0001       PUBLISH
24 01         CONNACK
25 01         CONNACK
26 0001610001 CONNECT CONNACK PUBLISH WILL PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH
27 00000001   CONNECT CONNACK
28 01         CONNACK
29 01         CONNACK
2a 01         CONNACK
`

// carriers are 5.0 packets with a place for properties, which is written [P].
// The Authentication Method of AUTH, without which there is none, is A.
var carriers = map[string]string{
	"CONNECT":     `10 [ "MQTT" 05 02 00 00 [P] "c" ]`,
	"WILL":        `10 [ "MQTT" 05 06 00 00 [] "c" [P] "w" "" ]`,
	"CONNACK":     `20 [ 00 00 [P] ]`,
	"PUBLISH":     `30 [ "a" [P] ]`,
	"PUBACK":      `40 [ 00 01 00 [P] ]`,
	"PUBREC":      `50 [ 00 01 00 [P] ]`,
	"PUBREL":      `62 [ 00 01 00 [P] ]`,
	"PUBCOMP":     `70 [ 00 01 00 [P] ]`,
	"SUBSCRIBE":   `82 [ 00 01 [P] "a" 00 ]`,
	"SUBACK":      `90 [ 00 01 [P] 00 ]`,
	"UNSUBSCRIBE": `a2 [ 00 01 [P] "a" ]`,
	"UNSUBACK":    `b0 [ 00 01 [P] 00 ]`,
	"DISCONNECT":  `e0 [ 00 [P] ]`,
	"AUTH":        `f0 [ 18 [P] ]`,
}

// TestPropertyTable reads every property in every packet, once and twice, and
// all identifiers that are not defined.
func TestPropertyTable(t *testing.T) {
	values, packets := map[byte]string{}, map[byte]string{}
	for line := range strings.Lines(strings.TrimSpace(table24)) {
		f := strings.Fields(line)
		id, err := hex.DecodeString(f[0])
		if err != nil {
			t.Fatal(err)
		}
		values[id[0]], packets[id[0]] = f[1], " "+strings.Join(f[2:], " ")+" "
	}
	values[0x26] += "62"
	for name := range carriers {
		for id := range byte(0x80) {
			once := fmt.Sprintf("%02x %s ", id, values[id])
			legal := strings.Contains(packets[id], " "+name+" ")
			want := mqtt.Success
			if !legal {
				want = mqtt.MalformedPacket
			}
			checkProperty(t, name, id, once, want)
			if !legal {
				continue
			}
			if want = mqtt.ProtocolError; id == 0x26 || id == 0x0b && name == "PUBLISH" {
				want = mqtt.Success
			}
			checkProperty(t, name, id, once+once, want)
		}
	}
}

// checkProperty reads a packet with properties, and demands the Reason Code want.
func checkProperty(t *testing.T, name string, id byte, properties string, want mqtt.ReasonCode) {
	t.Helper()
	if (id == 0x16 || name == "AUTH") && id != 0x15 { // neither goes without Authentication Method
		if name == "CONNECT" || name == "CONNACK" || name == "AUTH" {
			properties = `15 "m" ` + properties
		}
	}
	text := strings.Replace(carriers[name], "P", properties, 1)
	b, _, err := wire(text)
	if err != nil {
		t.Fatal(err)
	}
	r := Reader{Version: mqtt.V5}
	if _, err := r.Fill(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	_, err = r.Next()
	got := mqtt.Success
	if bad := (*Error)(nil); errors.As(err, &bad) {
		got = bad.Reason
	}
	if got != want {
		t.Errorf("%s with property 0x%02x: %s: %v, want %v", name, id, text, err, want)
	}
}
