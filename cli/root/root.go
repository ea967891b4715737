// Package root is the command line of fairlead: the list of its commands. Begin
// with [Command].
package root

import (
	"fairlead/cli"
	"fairlead/cli/audit"
	"fairlead/cli/backup"
	"fairlead/cli/bench"
	"fairlead/cli/ca"
	"fairlead/cli/client"
	"fairlead/cli/device"
	"fairlead/cli/doctor"
	"fairlead/cli/group"
	"fairlead/cli/policy"
	"fairlead/cli/pub"
	"fairlead/cli/restore"
	"fairlead/cli/serve"
	"fairlead/cli/status"
	"fairlead/cli/store"
	"fairlead/cli/sub"
	"fairlead/cli/token"
	"fairlead/cli/user"
	"fairlead/cli/version"
)

// Command is "fairlead".
var Command = &cli.Command{
	Name:  "fairlead",
	About: "Fairlead is an MQTT broker and the tools to work with it.",
	Examples: []cli.Example{
		{What: "run a broker", Line: "fairlead serve"},
		{What: "see all messages", Line: "fairlead sub -t '#' -v"},
		{What: "send one", Line: "fairlead pub -t greeting -m hello"},
		{What: "a device with a certificate and topics of its own", Line: "fairlead device add door-1 --out door-1"},
		{What: "what is insecure?", Line: "fairlead doctor"},
	},
	Commands: []*cli.Command{
		serve.Command, status.Command, doctor.Command, backup.Command, restore.Command, store.Command,
		device.Command, policy.Command, user.Command, group.Command, token.Command, client.Command, ca.Command, audit.Command,
		pub.Command, sub.Command, bench.Command, version.Command,
	},
}
