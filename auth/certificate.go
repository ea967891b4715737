package auth

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"fairlead/mqtt"
)

// Certificate accepts devices by their certificate. The handshake has proven that
// the Client has the key; what the certificate is worth, Identify says. Devices must
// be in the registry and active.
type Certificate struct {
	// Identify returns the device that a client certificate names, its serial number
	// and when it ends; zero: never. The error says why the certificate is not
	// accepted: wrong usage, revoked, not from our CA. It is asked again by
	// [Chain.Recheck]. It must be set.
	Identify func(*tls.ConnectionState) (device, serial string, until time.Time, err error)
	// ProxyListeners are the listeners whose PROXY header comes from a proxy that
	// verifies certificates itself and can be trusted: on them its CommonName is the
	// device. Nobody but the proxy may be able to reach such a listener.
	ProxyListeners []string
}

// Name implements [Method].
func (Certificate) Name() string { return "certificate" }

func (m Certificate) judge(a *attempt) answer {
	if cn := a.Info.CommonName; cn != "" && slices.Contains(m.ProxyListeners, a.Info.Listener) {
		return answer{proof: &proof{method: m.Name(), device: cn}}
	}
	state := a.Info.TLS
	if state == nil || len(state.PeerCertificates) == 0 {
		return answer{}
	}
	device, serial, until, err := m.Identify(state)
	if err != nil {
		return answer{no: &no{code: mqtt.NotAuthorized, identity: device, why: err.Error()}}
	}
	if device == "" {
		return answer{no: &no{code: mqtt.NotAuthorized, why: fmt.Sprintf("certificate %s names no device", serial)}}
	}
	return answer{proof: &proof{method: m.Name(), device: device, serial: serial, expires: until, holds: func() error {
		now, _, _, err := m.Identify(state)
		if err == nil && now != device {
			return errRenamed
		}
		return err
	}}}
}

var errRenamed = errors.New("the certificate names another device by now")
