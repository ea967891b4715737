package conformance

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// webTests are what is said about the WebSocket frames below MQTT packets.
var webTests = []struct {
	name   string
	covers []string // the same in both standards
	do     func(t *testing.T, transport string)
}{
	{"text frame", []string{"MQTT-6.0.0-1"}, textFrame},
	{"sub-protocol", []string{"MQTT-6.0.0-3", "MQTT-6.0.0-4"}, subprotocol},
	{"frames and packets", []string{"MQTT-6.0.0-2"}, framesAndPackets},
}

// TestWebSocket runs webTests by WebSocket, with TLS and without.
func TestWebSocket(t *testing.T) {
	for _, test := range webTests {
		for _, transport := range []string{"ws", "wss"} {
			if !foreign() {
				t.Run(test.name+"/"+transport, func(t *testing.T) { test.do(t, transport) })
			}
		}
	}
}

func plainOrTLS(t *testing.T, transport string) net.Conn {
	nc, err := net.DialTimeout("tcp", addresses[transport], patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if transport == "wss" {
		return tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) // it is made for this test
	}
	return nc
}

func textFrame(t *testing.T, transport string) {
	c, _, err := dialWeb(plainOrTLS(t, transport), "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c.frame(&out, 1, encode(4, "connect", words{{"id", "text", true}}))
	if _, err := c.Conn.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("got %x, %v after a text frame, want the end of the connection", b, err)
	}
}

func subprotocol(t *testing.T, transport string) {
	for offered, want := range map[string]string{"mqtt": "mqtt", "chat, mqtt": "mqtt", "mqttv3.1": "mqttv3.1", "mqttv3.1, mqtt": "mqtt"} {
		_, header, err := dialWeb(plainOrTLS(t, transport), offered)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(header, "Sec-WebSocket-Protocol: "+want+"\r\n") {
			t.Errorf("offered %q, the answer is\n%s", offered, header)
		}
	}
	if _, header, err := dialWeb(plainOrTLS(t, transport), "chat"); err == nil {
		t.Errorf("offered no sub-protocol of MQTT, the answer is\n%s", header)
	}
}

// framesAndPackets sends a CONNECT in frames of one byte, and many packets in one
// frame.
func framesAndPackets(t *testing.T, transport string) {
	c, _, err := dialWeb(plainOrTLS(t, transport), "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, b := range encode(4, "connect", words{{"id", "frames", true}}) {
		c.frame(&out, 2, []byte{b})
	}
	c.frame(&out, 2, bytes.Repeat([]byte{0xC0, 0}, 1000))
	if _, err := c.Conn.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, 4+2000)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if want := append([]byte{0x20, 2, 0, 0}, bytes.Repeat([]byte{0xD0, 0}, 1000)...); !bytes.Equal(got, want) {
		t.Errorf("got %x..., want CONNACK and 1000 PINGRESP", got[:20])
	}
}
