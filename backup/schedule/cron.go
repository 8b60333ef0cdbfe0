package schedule

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // zones on machines that have none installed

	cron "github.com/netresearch/go-cron"

	"rootstream/errs"
)

// Cron says when something happens: five fields as in crontab(5), or @hourly,
// @daily, @weekly, @monthly, @yearly, by the clocks of a zone.
//
// Where clocks are put forward, what would fall into the skipped hour happens
// as much later. Where they are put back, it happens once, the first time;
// what happens in every hour (* in the field of hours) happens in both.
type Cron struct {
	text   string
	zone   *time.Location
	plan   cron.Schedule
	hourly bool
}

// ParseCron reads an expression. An empty zone means UTC.
func ParseCron(text, zone string) (Cron, error) {
	if strings.Contains(text, "=") {
		return Cron{}, errs.NewInvalid("cron", "must not name a zone: that is a setting of its own")
	}
	if strings.HasPrefix(strings.TrimSpace(text), "@every") {
		return Cron{}, errs.NewInvalid("cron", "must say at which times, not @every: nobody could tell what was missed")
	}
	location, err := loadZone(zone)
	if err != nil {
		return Cron{}, err
	}
	const fields = cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor | cron.DowOrDom
	parser, err := cron.TryNewParser(fields)
	if err != nil {
		return Cron{}, fmt.Errorf("prepare the parser: %w", err)
	}
	plan, err := parser.Parse(text)
	if err != nil {
		return Cron{}, errs.NewInvalid("cron", fmt.Sprintf("%q cannot be read, write it as in 30 2 * * *: %v", text, err))
	}
	c := Cron{text: text, zone: location, plan: plan, hourly: hourly(text)}
	if c.Next(time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Cron{}, errs.NewInvalid("cron", fmt.Sprintf("%q never happens", text))
	}
	return c, nil
}

func loadZone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" { // which is another one on every machine
		return nil, errs.NewInvalid("zone", fmt.Sprintf("%q is not a time zone such as Europe/Berlin", name))
	}
	return zone, nil
}

// hourly reports whether an expression speaks of every hour.
func hourly(text string) bool {
	fields := strings.Fields(text)
	return text == "@hourly" || len(fields) == 5 && strings.HasPrefix(fields[1], "*")
}

// String returns the expression and its zone.
func (c Cron) String() string {
	if c.zone == nil {
		return ""
	}
	return c.text + " " + c.zone.String()
}

// farthest is how far ahead a time is looked for: 29 February may be eight years away.
const farthest = 9

// Next returns the first time after t; zero if there is none in the next years.
func (c Cron) Next(t time.Time) time.Time {
	for at, end := t, t.AddDate(farthest, 0, 0); at.Before(end); {
		since, until := at.In(c.zone).ZoneBounds()
		next := c.within(t, at, until)
		if skipped := c.skipped(t, since); !skipped.IsZero() && (next.IsZero() || skipped.Before(next)) {
			next = skipped
		}
		if !next.IsZero() || until.IsZero() {
			return next
		}
		t, at = until.Add(-time.Second), until
	}
	return time.Time{}
}

// within returns the first time after t while clocks go as they do at at, which is until.
func (c Cron) within(t, at, until time.Time) time.Time {
	_, offset := at.In(c.zone).Zone()
	for next := c.plan.Next(t.In(time.FixedZone("", offset))); !next.IsZero() && (until.IsZero() || next.Before(until)); next = c.plan.Next(next) {
		if c.hourly || !c.again(next) {
			return next.In(c.zone)
		}
	}
	return time.Time{}
}

// skipped returns the first time after t that clocks, put forward at since, did not show, as it is made up for.
func (c Cron) skipped(t, since time.Time) time.Time {
	forward := -c.putBack(since)
	if c.hourly || forward <= 0 {
		return time.Time{}
	}
	_, before := since.Add(-time.Second).In(c.zone).Zone()
	if t = later(t, since.Add(-time.Second)); t.Before(since.Add(forward)) {
		if next := c.plan.Next(t.In(time.FixedZone("", before))); !next.IsZero() && next.Before(since.Add(forward)) {
			return next.In(c.zone)
		}
	}
	return time.Time{}
}

// again reports whether clocks show t for the second time, having been put back.
func (c Cron) again(t time.Time) bool {
	since, _ := t.In(c.zone).ZoneBounds()
	return t.Before(since.Add(c.putBack(since)))
}

// putBack is by how much clocks were put back at a change; negative if they were put forward.
func (c Cron) putBack(change time.Time) time.Duration {
	if change.IsZero() {
		return 0
	}
	_, before := change.Add(-time.Second).In(c.zone).Zone()
	_, now := change.In(c.zone).Zone()
	return time.Duration(before-now) * time.Second
}

// Last returns the latest time in (since, now]; zero if there is none.
func (c Cron) Last(since, now time.Time) time.Time {
	for back := time.Hour; ; back *= 2 {
		from := now.Add(-back)
		final := !from.After(since)
		if final {
			from = since
		}
		var last time.Time
		for t := c.Next(from); !t.IsZero() && !t.After(now); t = c.Next(t) {
			last = t
		}
		if final || !last.IsZero() {
			return last
		}
	}
}
