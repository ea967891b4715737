// Package version is the command "fairlead version". Begin with [Command].
package version

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"

	"fairlead/cli"
)

// Command is "fairlead version".
var Command = &cli.Command{
	Name: "version", Group: "Help", Summary: "print the version",
	About: "Exit code: 0.",
	Examples: []cli.Example{
		{What: "for people", Line: "fairlead version"},
		{What: "for scripts", Line: "fairlead version --json"},
	},
	New: func() (*cli.Flags, cli.Run) {
		asJSON := false
		f := cli.NewFlags()
		f.Bool(&asJSON, "json", "as a JSON object")
		return f, func(_ context.Context, env *cli.Env, _ []string) error { return print(env, asJSON) }
	},
}

func print(env *cli.Env, asJSON bool) error {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if !asJSON {
		_, err := fmt.Fprintf(env.Stdout, "fairlead %s (%s, %s)\n", cli.Version(), runtime.Version(), platform)
		return err
	}
	return json.NewEncoder(env.Stdout).Encode(map[string]string{
		"version": cli.Version(), "go": runtime.Version(), "platform": platform,
	})
}
