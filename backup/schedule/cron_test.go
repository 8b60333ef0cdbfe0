package schedule_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rootstream/backup/schedule"
)

func mustCron(tb testing.TB, text, zone string) schedule.Cron {
	tb.Helper()
	c, err := schedule.ParseCron(text, zone)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func at(tb testing.TB, text string) time.Time {
	tb.Helper()
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func TestClocksThatChangeNeitherSkipNorRepeatARun(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, cron, zone, after, want string }{
		{"skipped hour: as much later", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T03:30:00+02:00 2026-03-30T02:30:00+02:00"},
		{"repeated hour: the first time", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T02:30:00+02:00 2026-10-26T02:30:00+01:00"},
		{"a few minutes of the repeated hour: the first time", "*/30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T02:00:00+02:00 2026-10-25T02:30:00+02:00 2026-10-26T02:00:00+01:00"},
		{"every hour: both", "0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", "2026-10-25T02:00:00+02:00 2026-10-25T02:00:00+01:00 2026-10-25T03:00:00+01:00"},
		{"hourly: both", "@hourly", "Europe/Berlin", "2026-10-24T23:30:00Z", "2026-10-25T02:00:00+02:00 2026-10-25T02:00:00+01:00"},
		{"half an hour put back", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", "2026-04-05T01:45:00+11:00 2026-04-06T01:45:00+10:30"},
		{"midnight that does not exist", "0 0 * * *", "America/Havana", "2026-03-07T12:00:00Z", "2026-03-08T01:00:00-04:00 2026-03-09T00:00:00-04:00"},
		{"half of the hour after a change that skips midnight", "*/20 * * * *", "America/Havana", "2026-03-08T04:30:00Z", "2026-03-07T23:40:00-05:00 2026-03-08T01:00:00-04:00"},
		{"within the hour that makes up for a skipped one", "*/20 2 * * *", "Europe/Berlin", "2026-03-29T01:05:00Z", "2026-03-29T03:20:00+02:00 2026-03-29T03:40:00+02:00 2026-03-30T02:00:00+02:00"},
		{"a day that an island skipped", "0 12 * * *", "Pacific/Apia", "2011-12-29T23:00:00Z", "2011-12-31T12:00:00+14:00"},
		{"no zone is UTC", "0 3 * * *", "", "2026-03-28T12:00:00Z", "2026-03-29T03:00:00Z"},
		{"a day of the month or of the week", "0 0 1 * MON", "", "2026-08-28T12:00:00Z", "2026-08-31T00:00:00Z 2026-09-01T00:00:00Z 2026-09-07T00:00:00Z"},
		{"29 February", "0 0 29 2 *", "", "2024-03-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"Sunday is 7 too", "0 3 * * 7", "", "2026-11-28T00:00:00Z", "2026-11-29T03:00:00Z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, now := mustCron(t, tt.cron, tt.zone), at(t, tt.after)
			for want := range strings.FieldsSeq(tt.want) {
				now = c.Next(now)
				if got := now.Format(time.RFC3339); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		})
	}
}

func TestExpressionsThatMeanNothingAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ cron, zone, want string }{
		{"", "", "cannot be read"},
		{"60 3 * * *", "", "cannot be read"},
		{"0 3 * *", "", "cannot be read"},
		{"0 0 3 * * *", "", "cannot be read"},
		{"0-59/0 3 * * *", "", "cannot be read"},
		{"0 0 31 2 *", "", "never happens"},
		{"TZ=Nowhere 0 3 * * *", "", "must not name a zone"},
		{"TZ=", "", "must not name a zone"},
		{"@every 1h", "", "@every"},
		{"0 3 * * *", "Nowhere/Land", "not a time zone"},
		{"0 3 * * *", "Local", "not a time zone"},
		{"0 3 * * *", "../../etc/passwd", "not a time zone"},
	} {
		if _, err := schedule.ParseCron(tt.cron, tt.zone); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseCron(%q, %q) = %v, want %q", tt.cron, tt.zone, err, tt.want)
		}
	}
}

func TestLastIsTheNewestTimeThatNextNames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"*/7 * * * *", "30 2 * * *", "0 3 * * SUN", "15 4 1 * *", "0 */6 * * *"}).Draw(t, "cron")
		zone := rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"}).Draw(t, "zone")
		c, err := schedule.ParseCron(text, zone)
		if err != nil {
			t.Fatal(err)
		}
		since := time.Unix(rapid.Int64Range(1_760_000_000, 1_800_000_000).Draw(t, "since"), 0)
		now := since.Add(time.Duration(rapid.Int64Range(0, 40*24*3600).Draw(t, "span")) * time.Second)
		var want time.Time
		for n := c.Next(since); !n.After(now); n = c.Next(n) {
			want = n
		}
		if got := c.Last(since, now); !got.Equal(want) {
			t.Fatalf("Last(%s, %s) = %s, want %s", since, now, got, want)
		}
	})
}

func FuzzParseCron(f *testing.F) {
	for _, seed := range []string{"30 2 * * *", "@daily", "*/5 1-3,7 * JAN MON-FRI", "TZ=", "@every 1s", "0 0 L * *", "\x00"} {
		f.Add(seed, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, text, zone string) {
		c, err := schedule.ParseCron(text, zone)
		if err != nil {
			return
		}
		now := time.Date(2026, 10, 24, 0, 0, 0, 0, time.UTC)
		if next := c.Next(now); !next.IsZero() && !next.After(now) {
			t.Fatalf("%q: Next(%s) = %s", text, now, next)
		}
	})
}
