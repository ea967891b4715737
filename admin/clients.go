package admin

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"fairlead/broker"
	"fairlead/mqtt"
)

func (s *Server) clientRoutes(a *api) {
	add(a, "GET /v1/clients", "Lists clients that are connected or have a session, in the order of their Client Identifiers.", s.listClients)
	add(a, "POST /v1/clients/{id}/disconnect", "Ends the connection of a client. It may come back.", s.disconnectClient)
}

func (s *Server) listClients(ctx context.Context, in *struct {
	After     string `query:"after" maxLength:"65535" doc:"Go on behind this item: next of the part before."`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many items at most."`
	Prefix    string `query:"prefix" maxLength:"65535" doc:"Clients whose Client Identifiers begin so."`
	Device    string `query:"device" maxLength:"128" doc:"Clients that are this device."`
	User      string `query:"user" maxLength:"65535" doc:"Clients that are this user."`
	Connected string `query:"connected" enum:"true,false" doc:"Clients that are connected, or are not."`
}) (*answer[List[ClientInfo]], error) {
	var found []broker.Member
	for _, m := range s.o.Broker.Members() {
		dev, user := ownerOf(&m)
		if strings.HasPrefix(string(m.Client), in.Prefix) && (in.Device == "" || in.Device == dev) &&
			(in.User == "" || in.User == user) && (in.Connected == "" || in.Connected == strconv.FormatBool(m.Connected)) {
			found = append(found, m)
		}
	}
	l := part(found, pageIn{After: in.After, Limit: in.Limit}, func(m broker.Member) string { return string(m.Client) })
	return yes(listOf(l.Items, l.Next, clientOf))
}

// ownerOf is the device, or the user, that a session belongs to.
func ownerOf(m *broker.Member) (dev, user string) {
	if m.Identity != nil {
		return m.Identity.Device, m.Identity.User
	}
	if name, ok := strings.CutPrefix(m.Owner, "device:"); ok {
		return name, ""
	}
	return "", strings.TrimPrefix(m.Owner, "user:")
}

// subscriptionsMax is how many subscriptions of a client a list shows.
const subscriptionsMax = 100

func clientOf(m *broker.Member) ClientInfo {
	c := ClientInfo{Client: string(m.Client), Connected: m.Connected, Remote: m.Remote, Since: some(m.Since), Subscriptions: []Subscription{}, SubscriptionsTotal: len(m.Subscriptions)}
	c.Device, c.User = ownerOf(m)
	if m.Identity != nil {
		c.Method = m.Identity.Method
	}
	for _, sub := range m.Subscriptions[:min(len(m.Subscriptions), subscriptionsMax)] {
		c.Subscriptions = append(c.Subscriptions, Subscription{Filter: sub.Filter.String(), QoS: int(sub.QoS)})
	}
	return c
}

func (s *Server) disconnectClient(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"65535" doc:"The Client Identifier."`
	Body *Change
}) (*done, error) {
	var reason string
	if in.Body != nil {
		reason = in.Body.Reason
	}
	return s.remove(ctx, deed{action: "client.disconnect", object: in.ID, reason: reason}, func(context.Context) error {
		if !s.o.Broker.Disconnect(mqtt.ClientID(in.ID), mqtt.AdministrativeAction, told(reason)) {
			return problem(http.StatusNotFound, fmt.Errorf("no client %.200q is connected", in.ID))
		}
		return nil
	})
}

// told is what a client reads that is sent away.
func told(reason string) string {
	if reason == "" {
		return "an operator has ended the connection"
	}
	return reason
}
