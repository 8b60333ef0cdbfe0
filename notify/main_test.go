package notify_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The test server lives as long as the test process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("rootstream/postgres/postgrestest.start.func1"))
}
