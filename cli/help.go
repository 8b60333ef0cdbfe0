package cli

import (
	"github.com/spf13/cobra"
)

// helpTemplate begins with what most people look for: how it is typed.
const helpTemplate = `{{with .Example}}{{.}}

{{end}}{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

const usageTemplate = `Usage:{{if and .Runnable (not .HasAvailableSubCommands)}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of all commands:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

More about one of them: {{.CommandPath}} COMMAND --help{{end}}
`

// explainDefaults gives the commands that cobra makes what ours have.
func explainDefaults(root *cobra.Command) {
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Use, c.Example = "help [COMMAND]", "  rootstream help user add"
			c.Run, c.RunE = nil, func(_ *cobra.Command, args []string) error {
				found, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return unknownCommand(found, rest[0])
				}
				return found.Help()
			}
		case "completion":
			c.Example = "  rootstream completion bash > /etc/bash_completion.d/rootstream"
			c.Short, c.Long = "Write the script that completes commands in a shell", ""
			for _, shell := range c.Commands() {
				shell.Example = completionExample(shell.Name())
				shell.Short, shell.Long = "Write the script for "+shell.Name(), ""
			}
		}
	}
}

func completionExample(shell string) string {
	target := map[string]string{
		"bash": "> /etc/bash_completion.d/rootstream", "zsh": `> "${fpath[1]}/_rootstream"`,
		"fish": "> ~/.config/fish/completions/rootstream.fish", "powershell": "| Out-String | Invoke-Expression",
	}[shell]
	return "  rootstream completion " + shell + " " + target
}
