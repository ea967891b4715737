// Command fairlead is an MQTT broker and the tools to work with it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"fairlead/cli"
	"fairlead/cli/root"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(cli.Main(ctx, cli.OS(), root.Command, os.Args[1:]))
}
