package mfa

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/internal/base64url"
)

// Record is one try as it was written down.
type Record struct {
	Method  Method      `json:"method"`
	Success bool        `json:"success"`
	Reason  string      `json:"reason"` // accepted, wrong_code, used_code, no_factor, reserved, forgiven
	IP      *netip.Addr `json:"ip_address"`
	At      time.Time   `json:"attempted_at"`
}

const (
	defaultPage = 50
	maxPage     = 200
)

// Attempts lists an account's tries, newest first. limit 0 means 50. cursor is
// "" for the first page; the returned one is "" after the last.
func (m *Manager) Attempts(ctx context.Context, userID int64, limit int, cursor string) ([]Record, string, error) {
	if limit == 0 {
		limit = defaultPage
	}
	if limit < 0 || limit > maxPage {
		return nil, "", errs.NewInvalid("limit", fmt.Sprintf("must be between 1 and %d", maxPage))
	}
	from, err := readCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	rows, _ := m.db.Query(ctx, `select method, success, reason, ip_address, attempted_at
		from mfa_attempts where user_id = $1 and ($2::timestamptz is null or attempted_at <= $2)
		order by attempted_at desc, id desc offset $3 limit $4`, userID, from.at, from.skip, limit+1)
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Record, err error) {
		err = row.Scan(&r.Method, &r.Success, &r.Reason, &r.IP, &r.At)
		return r, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list tries: %w", err)
	}
	if len(records) <= limit {
		return records, "", nil
	}
	records = records[:limit]
	return records, from.after(records), nil
}

// place is where a page begins: at a time, after so many tries of exactly that time.
type place struct {
	at   *time.Time
	skip int
}

// after returns the cursor of the page behind records.
func (p place) after(records []Record) string {
	last := records[len(records)-1].At
	skip := 0
	for i := len(records) - 1; i >= 0 && records[i].At.Equal(last); i-- {
		skip++
	}
	if skip == len(records) && p.at != nil && p.at.Equal(last) {
		skip += p.skip
	}
	return base64url.Encode(fmt.Appendf(nil, "%d.%d", last.UnixMicro(), skip))
}

func readCursor(s string) (place, error) {
	if s == "" {
		return place{}, nil
	}
	var micros int64
	var skip int
	raw, err := base64url.Decode(s)
	if err == nil {
		_, err = fmt.Sscanf(string(raw), "%d.%d", &micros, &skip)
	}
	if err != nil || skip < 0 || string(raw) != fmt.Sprintf("%d.%d", micros, skip) {
		return place{}, errs.NewInvalid("cursor", "must be a next_cursor of this list")
	}
	at := time.UnixMicro(micros).UTC()
	return place{&at, skip}, nil
}
