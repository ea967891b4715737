// Package version is the command "fairlead version", and knows which version
// this is.
package version

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"fairlead/cli"
)

// released is set by the linker when a release is built.
var released string

// Version is the version of this binary: that of the release, or the commit it
// was built from, or "devel".
func Version() string {
	if released != "" {
		return released
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

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
		_, err := fmt.Fprintf(env.Stdout, "fairlead %s (%s, %s)\n", Version(), runtime.Version(), platform)
		return err
	}
	return json.NewEncoder(env.Stdout).Encode(map[string]string{
		"version": Version(), "go": runtime.Version(), "platform": platform,
	})
}
