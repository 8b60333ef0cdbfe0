package cli

import (
	"fmt"

	"rootstream/app"
)

// errPartial is the exit code of work that was done in part.
const errPartial exitError = 7

// importSummary says what an import did.
func (env *environment) importSummary(sum app.ImportSummary) error {
	if env.output == "json" {
		if err := env.json(sum); err != nil {
			return err
		}
	} else {
		if _, err := fmt.Fprintf(env.stdout, "%d imported, %d refused\n", sum.Imported, sum.Refused); err != nil {
			return err
		}
	}
	if sum.Refused > 0 {
		return errPartial
	}
	return nil
}
