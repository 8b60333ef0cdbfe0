package user

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
)

const (
	importBatch   = 100     // accounts of one transaction
	maxImportLine = 1 << 20 // bytes
)

// Imported is one line of an import: a JSON object. Unknown keys are refused.
type Imported struct {
	Username     string     `json:"username"`
	Email        string     `json:"email"`
	PasswordHash string     `json:"password_hash"` // see CheckHash; empty: the owner recovers the account
	DisplayName  string     `json:"display_name"`
	AvatarURL    string     `json:"avatar_url"`
	Role         Role       `json:"role"`
	Verified     bool       `json:"verified"`
	Active       *bool      `json:"active"` // absent means true
	CreatedAt    *time.Time `json:"created_at"`
}

// ImportLine tells what became of one line.
type ImportLine struct {
	Line     int       // counted from 1
	Username string    // as far as it could be read
	UserID   uuid.UUID // of the account made; uuid.Nil where none was
	Err      error     // why none was
}

// ImportOptions says how to import.
type ImportOptions struct {
	DryRun bool                  // check every line, write nothing
	Actor  uuid.UUID             // who imports
	Report func(line ImportLine) // called in the order of lines; nil means not at all
}

// ImportSummary counts lines.
type ImportSummary struct {
	Imported int `json:"imported"` // with DryRun: those that would be
	Refused  int `json:"refused"`
}

// Import makes an account of each line of r. A line that breaks a rule or
// whose name is taken is reported and left out; the others are kept. The error
// is about reading r or reaching the database; what was reported before it stands.
func (s *Store) Import(ctx context.Context, r io.Reader, opt ImportOptions) (ImportSummary, error) {
	im := importer{store: s, opt: opt}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxImportLine)
	for sc.Scan() {
		im.line++
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		im.add(sc.Bytes())
		if len(im.batch) == importBatch {
			if err := im.flush(ctx); err != nil {
				return im.sum, err
			}
		}
	}
	if err := im.flush(ctx); err != nil {
		return im.sum, err
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return im.sum, errs.New(errs.Malformed, "line_too_long", fmt.Sprintf("line %d is longer than 1 MiB", im.line+1))
	}
	if sc.Err() != nil {
		return im.sum, fmt.Errorf("read the import: %w", sc.Err())
	}
	return im.sum, nil
}

type importer struct {
	store *Store
	opt   ImportOptions
	line  int
	batch []importItem
	sum   ImportSummary
}

type importItem struct {
	ImportLine
	in New
}

// add reads one line and checks all that needs no database.
func (im *importer) add(text []byte) {
	item := importItem{ImportLine: ImportLine{Line: im.line}}
	var in Imported
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	err := dec.Decode(&in)
	if err == nil && dec.More() {
		err = errors.New("more than one value")
	}
	item.Username = in.Username
	if err != nil || !utf8.Valid(text) {
		item.Err = errs.New(errs.Malformed, "malformed_line", "the line must be one JSON object with known keys").WithCause(err)
		im.batch = append(im.batch, item)
		return
	}
	item.in = New{
		Username: in.Username, Email: in.Email, PasswordHash: in.PasswordHash, DisplayName: in.DisplayName, AvatarURL: in.AvatarURL,
		Role: in.Role, Verified: in.Verified, Disabled: in.Active != nil && !*in.Active, Actor: im.opt.Actor,
	}.normalize()
	if in.CreatedAt != nil {
		item.in.CreatedAt = *in.CreatedAt
	}
	item.Err = item.in.check()
	im.batch = append(im.batch, item)
}

// flush writes what was collected in one transaction and reports it. Taken
// names are found before anything is written, so they do not undo the others.
func (im *importer) flush(ctx context.Context) error {
	if len(im.batch) == 0 {
		return nil
	}
	var done []ImportLine
	err := im.store.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		if done, err = im.write(ctx, tx); err == nil && im.opt.DryRun {
			return errDryRun
		}
		return err
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return err
	}
	im.batch = im.batch[:0]
	for _, l := range done {
		if l.Err != nil {
			im.sum.Refused++
		} else {
			im.sum.Imported++
		}
		if im.opt.DryRun {
			l.UserID = uuid.Nil
		}
		if im.opt.Report != nil {
			im.opt.Report(l)
		}
	}
	return nil
}

func (im *importer) write(ctx context.Context, tx *postgres.Tx) ([]ImportLine, error) {
	done := make([]ImportLine, 0, len(im.batch))
	for _, item := range im.batch {
		l := item.ImportLine
		if l.Err == nil {
			u, err := im.store.Create(ctx, tx, item.in)
			if err != nil && errs.KindOf(err) != errs.Conflict {
				return nil, fmt.Errorf("import line %d: %w", l.Line, err)
			}
			l.UserID, l.Err = u.PublicID, err
		}
		done = append(done, l)
	}
	return done, nil
}

// errDryRun rolls a rehearsal back.
var errDryRun = errors.New("dry run")
