package stream

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/internal/base64url"
)

const (
	defaultLimit = 50
	maxLimit     = 200
)

// Page is a part of a list.
type Page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty"` // "" on the last page
}

// List says which part of a list is wanted.
type List struct {
	Limit  int    // at most 200; 0 means 50
	Cursor string // NextCursor of the page before; "" means the first page
}

// place is where a page begins: at a time, after so many items of exactly that time.
type place struct {
	at   *time.Time
	skip int
}

func (l List) check() (limit int, at place, err error) {
	var f errs.Fields
	limit = checkLimit(&f, l.Limit)
	if at, err = readPlace(l.Cursor); err != nil {
		f.Add("cursor", "must be a next_cursor of an earlier page")
	}
	return limit, at, f.Err()
}

func checkLimit(f *errs.Fields, limit int) int {
	if limit < 0 || limit > maxLimit {
		f.Add("limit", "must be from 1 to 200")
	}
	if limit == 0 {
		return defaultLimit
	}
	return limit
}

func readPlace(cursor string) (place, error) {
	if cursor == "" {
		return place{}, nil
	}
	var micros int64
	var skip int
	raw, err := base64url.Decode(cursor)
	if err == nil {
		_, err = fmt.Sscanf(string(raw), "%d.%d", &micros, &skip)
	}
	if err != nil || skip < 0 || string(raw) != fmt.Sprintf("%d.%d", micros, skip) {
		return place{}, errs.New(errs.Invalid, "invalid_cursor", "the cursor is not one of ours")
	}
	at := time.UnixMicro(micros).UTC()
	return place{&at, skip}, nil
}

// cut makes a page of items, of which one more than limit was read.
func cut[T any](items []T, limit int, begin place, at func(T) time.Time) Page[T] {
	if items == nil {
		items = []T{}
	}
	if len(items) <= limit {
		return Page[T]{Items: items}
	}
	items = items[:limit:limit]
	last := at(items[limit-1])
	skip := 0
	for i := limit - 1; i >= 0 && at(items[i]).Equal(last); i-- {
		skip++
	}
	if skip == limit && begin.at != nil && begin.at.Equal(last) {
		skip += begin.skip
	}
	return Page[T]{items, base64url.Encode(fmt.Appendf(nil, "%d.%d", last.UnixMicro(), skip))}
}

// readID reads the cursor of a list that is in the order of public ids.
func readID(cursor string) (*uuid.UUID, error) {
	if cursor == "" {
		return nil, nil //nolint:nilnil // no cursor is no id
	}
	b, err := base64url.Decode(cursor)
	if err != nil {
		return nil, err
	}
	id, err := uuid.FromBytes(b)
	return &id, err
}
