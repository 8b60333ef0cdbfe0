package cli

import (
	"fmt"
	"strconv"

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

// harmless is text from outside as a terminal may have it: what would control it is escaped.
func harmless(text string) string {
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}
