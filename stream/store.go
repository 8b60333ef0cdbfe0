package stream

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/internal/base64url"
	"rootstream/postgres"
	"rootstream/secret"
)

// Draft is a stream about to be made.
type Draft struct {
	Name         string `json:"name"`
	Description  string `json:"description"`
	URL          string `json:"stream_url"`
	ThumbnailURL string `json:"thumbnail_url"`
	Codec        string `json:"codec"`
	IsPublic     *bool  `json:"is_public"` // nil means true
}

// Created is a new stream and its key, which is shown this once.
type Created struct {
	Stream Stream
	Key    secret.Secret
}

// Create makes a stream of the account's own, not live yet.
func (s *Store) Create(ctx context.Context, tx *postgres.Tx, owner Account, d Draft) (Created, error) {
	var f errs.Fields
	checkName(&f, d.Name)
	checkDescription(&f, d.Description)
	checkURL(&f, "stream_url", d.URL)
	checkURL(&f, "thumbnail_url", d.ThumbnailURL)
	checkCodec(&f, d.Codec)
	if err := f.Err(); err != nil {
		return Created{}, err
	}
	if err := s.roomFor(ctx, tx, owner); err != nil {
		return Created{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Created{}, fmt.Errorf("name a stream: %w", err)
	}
	key, hash := newKey()
	_, err = tx.Exec(ctx, `insert into streams (public_id, user_id, name, description, stream_url, thumbnail_url, codec, is_public,
			stream_key, stream_key_hash)
		values ($1, $2, $3, $4, nullif($5, ''), nullif($6, ''), nullif($7, ''), $8, $9, $10)`,
		id, owner.ID, d.Name, d.Description, d.URL, d.ThumbnailURL, d.Codec, d.IsPublic == nil || *d.IsPublic, storedKey(hash), hash[:])
	if err != nil {
		return Created{}, fmt.Errorf("create a stream: %w", err)
	}
	made, err := find(ctx, tx, "s.public_id = $1", id)
	if err != nil {
		return Created{}, err
	}
	return Created{made, key}, made.tell(tx, owner, "stream.created", map[string]any{"stream_id": id, "user_id": made.UserID})
}

// roomFor refuses an account that has as many streams as it may have. Its row
// stays locked until tx ends, so that many at once do not exceed that.
func (s *Store) roomFor(ctx context.Context, tx *postgres.Tx, owner Account) error {
	var has int
	b := &pgx.Batch{}
	b.Queue(`select from users where id = $1 for no key update`, owner.ID)
	b.Queue(`select count(*) from (select from streams where user_id = $1 limit $2) s`, owner.ID, s.cfg.MaxStreams).
		QueryRow(func(row pgx.Row) error { return row.Scan(&has) })
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("count an account's streams: %w", err)
	}
	if has >= s.cfg.MaxStreams {
		return ErrTooManyStreams
	}
	return nil
}

// ByPublicID reads a stream that the account may see. The viewer count is
// Redis' own; without Redis it is the one written last.
func (s *Store) ByPublicID(ctx context.Context, a Account, id uuid.UUID) (Stream, error) {
	got, err := s.readable(ctx, a, id)
	if err != nil {
		return Stream{}, err
	}
	if !got.IsLive {
		got.ViewerCount = 0
	} else if n, err := s.figures(ctx, id); err == nil {
		got.ViewerCount = n.Count
	}
	return got, nil
}

// Owner says whose a stream is, whoever may see it.
func (s *Store) Owner(ctx context.Context, id uuid.UUID) (uuid.UUID, error) {
	is, err := find(ctx, s.db, "s.public_id = $1", id)
	return is.UserID, err
}

// ByKey reads the stream a key belongs to, for who takes in its video.
func (s *Store) ByKey(ctx context.Context, key secret.Secret) (Stream, error) {
	hash, ok := keyHash(key.Reveal())
	if !ok {
		return Stream{}, ErrNotFound
	}
	return find(ctx, s.db, "s.stream_key_hash = $1", hash[:])
}

// Filter says which streams are wanted. The zero value means all the account may see.
type Filter struct {
	List
	Mine bool  // only the account's own
	Live *bool // only live ones, or only others
}

// Streams lists streams that the account may see, newest first; rows of Phase
// 24.2 are in no order among themselves.
func (s *Store) Streams(ctx context.Context, a Account, by Filter) (Page[Stream], error) {
	var f errs.Fields
	limit := checkLimit(&f, by.Limit)
	before, err := readID(by.Cursor)
	if err != nil {
		f.Add("cursor", "must be a next_cursor of an earlier page")
	}
	if err = f.Err(); err != nil {
		return Page[Stream]{}, err
	}
	rows, _ := s.db.Query(ctx, "select "+columns+from+`
		where ($1::uuid is null or s.public_id < $1) and (s.user_id = $2 or not $3 and (coalesce(s.is_public, true) or $4))
			and ($5::boolean is null or coalesce(s.is_live, false) = $5)
		order by s.public_id desc limit $6`, before, a.ID, by.Mine, a.Operator, by.Live, limit+1)
	items, err := pgx.CollectRows(rows, pgx.RowToStructByName[Stream])
	if err != nil {
		return Page[Stream]{}, fmt.Errorf("list streams: %w", err)
	}
	p := Page[Stream]{Items: items}
	if len(items) > limit {
		p.Items = slices.Clip(items[:limit])
		last := p.Items[limit-1].PublicID
		p.NextCursor = base64url.Encode(last[:])
	}
	for i, item := range p.Items {
		p.Items[i] = item.inUTC()
	}
	return p, nil
}

// Patch changes what is not nil.
type Patch struct {
	Name         *string `json:"name"`
	Description  *string `json:"description"`
	URL          *string `json:"stream_url"`
	ThumbnailURL *string `json:"thumbnail_url"`
	Codec        *string `json:"codec"`
	IsPublic     *bool   `json:"is_public"`
}

func (p Patch) check() error {
	var f errs.Fields
	if p.Name != nil {
		checkName(&f, *p.Name)
	}
	if p.Description != nil {
		checkDescription(&f, *p.Description)
	}
	if p.URL != nil {
		checkURL(&f, "stream_url", *p.URL)
	}
	if p.ThumbnailURL != nil {
		checkURL(&f, "thumbnail_url", *p.ThumbnailURL)
	}
	if p.Codec != nil {
		checkCodec(&f, *p.Codec)
	}
	return f.Err()
}

// apply returns s as p wants it and the names of the fields that differ.
func (p Patch) apply(s Stream) (Stream, []string) {
	var changed []string
	set := func(field string, at, to *string) {
		if to != nil && *to != *at {
			*at = *to
			changed = append(changed, field)
		}
	}
	set("name", &s.Name, p.Name)
	set("description", &s.Description, p.Description)
	set("stream_url", &s.URL, p.URL)
	set("thumbnail_url", &s.ThumbnailURL, p.ThumbnailURL)
	set("codec", &s.Codec, p.Codec)
	if p.IsPublic != nil && *p.IsPublic != s.IsPublic {
		s.IsPublic = *p.IsPublic
		changed = append(changed, "is_public")
	}
	return s, changed
}

// Update changes a stream's description of itself.
func (s *Store) Update(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID, p Patch) (Stream, error) {
	if err := p.check(); err != nil {
		return Stream{}, err
	}
	was, err := lock(ctx, tx, a, id)
	if err != nil {
		return Stream{}, err
	}
	is, changed := p.apply(was)
	if len(changed) == 0 {
		return was, nil
	}
	_, err = tx.Exec(ctx, `update streams set name = $2, description = $3, stream_url = nullif($4, ''), thumbnail_url = nullif($5, ''),
		codec = nullif($6, ''), is_public = $7 where id = $1`, is.ID, is.Name, is.Description, is.URL, is.ThumbnailURL, is.Codec, is.IsPublic)
	if err != nil {
		return Stream{}, fmt.Errorf("update a stream: %w", err)
	}
	if err := is.tell(tx, a, "stream.updated", map[string]any{"stream_id": id, "fields": changed}); err != nil {
		return Stream{}, err
	}
	return find(ctx, tx, "s.public_id = $1", id)
}

// RotateKey gives a stream a new key, which is shown this once; the old one is dead at once.
func (s *Store) RotateKey(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID) (secret.Secret, error) {
	is, err := lock(ctx, tx, a, id)
	if err != nil {
		return secret.Secret{}, err
	}
	key, hash := newKey()
	if _, err := tx.Exec(ctx, `update streams set stream_key = $2, stream_key_hash = $3 where id = $1`, is.ID, storedKey(hash), hash[:]); err != nil {
		return secret.Secret{}, fmt.Errorf("change a stream's key: %w", err)
	}
	return key, is.tell(tx, a, "stream.updated", map[string]any{"stream_id": id, "fields": []string{"stream_key"}})
}

// Delete removes a stream that is not live, with its sessions and recordings.
func (s *Store) Delete(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID) error {
	is, err := lock(ctx, tx, a, id)
	if err != nil {
		return err
	}
	if is.IsLive {
		return ErrLive
	}
	if _, err := tx.Exec(ctx, `delete from streams where id = $1`, is.ID); err != nil {
		return fmt.Errorf("delete a stream: %w", err)
	}
	return is.tell(tx, a, "stream.deleted", map[string]any{"stream_id": id, "user_id": is.UserID, "is_public": is.IsPublic})
}

// DeleteAll removes all streams of an account, live ones too, and tells of it. before is called for each, and may add
// to what tx does.
func (s *Store) DeleteAll(ctx context.Context, tx *postgres.Tx, owner Account, before func(id uuid.UUID) error) error {
	rows, err := tx.Query(ctx, "delete from streams where user_id = $1 returning public_id, is_public", owner.ID)
	if err != nil {
		return fmt.Errorf("delete an account's streams: %w", err)
	}
	gone, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (is Stream, err error) {
		is.UserID = owner.PublicID
		return is, row.Scan(&is.PublicID, &is.IsPublic)
	})
	if err != nil {
		return fmt.Errorf("delete an account's streams: %w", err)
	}
	for _, is := range gone {
		if err := before(is.PublicID); err != nil {
			return err
		}
		err := is.tell(tx, owner, "stream.deleted", map[string]any{"stream_id": is.PublicID, "user_id": is.UserID, "is_public": is.IsPublic})
		if err != nil {
			return err
		}
	}
	return nil
}
