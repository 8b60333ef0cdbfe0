package cli

import "rootstream/app"

// partial is the exit code of work that was done in part.
const partial exitStatus = 7

// importSummary says what an import did.
func (env *environment) importSummary(sum app.ImportSummary) error {
	if env.output == "json" {
		if err := env.json(sum); err != nil {
			return err
		}
	} else {
		env.say("%d imported, %d refused", sum.Imported, sum.Refused)
	}
	if sum.Refused > 0 {
		return partial
	}
	return nil
}
