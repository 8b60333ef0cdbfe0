package doctor

import (
	"context"
	"time"
)

// ExamineAt is Examine at another time.
func ExamineAt(ctx context.Context, o Options, now time.Time) []Finding {
	return examineAt(ctx, o, now)
}
