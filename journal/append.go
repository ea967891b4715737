package journal

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"fairlead/mqtt"
)

func appendText[T ~string | ~[]byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendDifference appends n as its difference to a base, modulo 2^64, in zigzag:
// small differences of either sign take few bytes.
func appendDifference(b []byte, n, base uint64) []byte {
	d := n - base
	return binary.AppendUvarint(b, d<<1^-(d>>63))
}

func appendTime(b []byte, t time.Time) []byte { return appendDifference(b, uint64(nano(t)), 0) }

// noTime stands for the zero time, where a field has a fixed size.
const noTime = math.MinInt64

// Times that nanoseconds since 1970 in 64 bits can't express, before 1677 and
// after 2262, become the nearest that they can: wrapped round, what never was to
// expire would have expired.
var (
	firstTime = time.Unix(0, noTime+1)
	lastTime  = time.Unix(0, math.MaxInt64)
)

func nano(t time.Time) int64 {
	switch {
	case t.After(lastTime):
		return math.MaxInt64
	case t.Before(firstTime):
		return noTime + 1
	}
	return t.UnixNano()
}

func fromNano(n int64) time.Time { return time.Unix(0, n).UTC() }

// bit returns the mask if set, else 0.
func bit(mask byte, set bool) byte {
	if set {
		return mask
	}
	return 0
}

// subscriptionIDMax is the largest Subscription Identifier (3.8.2.1.2), a Variable
// Byte Integer.
const subscriptionIDMax = 268_435_455

// The checks below panic: see the package comment.

func checkQoS(q mqtt.QoS) byte {
	if q > mqtt.QoS2 {
		panic(fmt.Sprintf("journal: QoS %d is to be written", byte(q)))
	}
	return byte(q)
}

func appendID(b []byte, id mqtt.PacketID) []byte {
	if id == 0 {
		panic("journal: Packet Identifier 0 is to be written")
	}
	return binary.AppendUvarint(b, uint64(id))
}

func appendSubscriptionID(b []byte, id uint32) []byte {
	if id == 0 || id > subscriptionIDMax {
		panic(fmt.Sprintf("journal: Subscription Identifier %d is to be written", id))
	}
	return binary.AppendUvarint(b, uint64(id))
}
