package packet

import "fairlead/mqtt"

// disconnectCodes are the Reason Codes of a DISCONNECT [MQTT-3.14.2-1]. Bad
// authentication method is one by table 2-6, although table 3-10 has left it out.
var disconnectCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.DisconnectWithWill, mqtt.UnspecifiedError,
	mqtt.MalformedPacket, mqtt.ProtocolError, mqtt.ImplementationSpecificError, mqtt.NotAuthorized, mqtt.ServerBusy,
	mqtt.ServerShuttingDown, mqtt.BadAuthenticationMethod, mqtt.KeepAliveTimeout, mqtt.SessionTakenOver,
	mqtt.TopicFilterInvalid, mqtt.TopicNameInvalid, mqtt.ReceiveMaximumExceeded, mqtt.TopicAliasInvalid,
	mqtt.PacketTooLarge, mqtt.MessageRateTooHigh, mqtt.QuotaExceeded, mqtt.AdministrativeAction,
	mqtt.PayloadFormatInvalid, mqtt.RetainNotSupported, mqtt.QoSNotSupported, mqtt.UseAnotherServer, mqtt.ServerMoved,
	mqtt.SharedSubscriptionsNotSupported, mqtt.ConnectionRateExceeded, mqtt.MaximumConnectTime,
	mqtt.SubscriptionIdentifiersNotSupported, mqtt.WildcardSubscriptionsNotSupported}

// disconnect reads a DISCONNECT. What is left out stands for normal disconnection
// and no properties (3.14.2.1).
func (c *cursor) disconnect(v mqtt.Version) *Disconnect {
	p := &Disconnect{}
	if v < mqtt.V5 || len(c.b) == 0 {
		return p
	}
	p.Reason = c.code(disconnectCodes)
	if len(c.b) > 0 {
		p.Properties = c.properties()
	}
	return p
}

// authCodes are the Authenticate Reason Codes [MQTT-3.15.2-1].
var authCodes = []mqtt.ReasonCode{mqtt.Success, mqtt.ContinueAuthentication, mqtt.ReAuthenticate}

// auth reads an AUTH. It has an Authentication Method (3.15.2.2.2), but for the
// form without any byte that 3.15.2.1 grants to success.
func (c *cursor) auth() *Auth {
	p := &Auth{}
	if len(c.b) == 0 {
		return p
	}
	p.Reason = c.code(authCodes)
	if len(c.b) > 0 {
		p.Properties = c.properties()
	}
	if !p.Properties.Has(mqtt.AuthenticationMethod) {
		c.fail(mqtt.ProtocolError, "no Authentication Method")
	}
	return p
}

func (e *encoder) auth(p *Auth) {
	if e.v < mqtt.V5 {
		e.fail("MQTT %v has no such packet", e.v)
	}
	bare := p.Reason == mqtt.Success && p.Properties.empty()
	if !bare && !p.Properties.Has(mqtt.AuthenticationMethod) {
		e.fail("no Authentication Method")
	}
	e.ending(p.Reason, p.Properties)
}
