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
		{What: "run a broker for this machine", Line: "fairlead serve --open"},
		{What: "see all messages", Line: "fairlead sub -t '#' -v"},
		{What: "send one", Line: "fairlead pub -t greeting -m hello"},
	},
	Commands: []*cli.Command{
		serve.Command, status.Command, doctor.Command, backup.Command, restore.Command, store.Command,
		device.Command, policy.Command, user.Command, group.Command, token.Command, client.Command, ca.Command, audit.Command,
		pub.Command, sub.Command, bench.Command, version.Command,
	},
}
