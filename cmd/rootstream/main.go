// Command rootstream is the state layer of a live-streaming platform: see package cli.
package main

import (
	"os"

	"rootstream/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
