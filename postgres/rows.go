package postgres

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// heldRows gives back what its query holds once the rows are read or closed, and classifies their error.
type heldRows struct {
	pgx.Rows
	release func()
}

func (r *heldRows) Close() {
	r.Rows.Close()
	if r.release != nil {
		r.release()
		r.release = nil
	}
}

func (r *heldRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *heldRows) Err() error { return classify(r.Rows.Err()) }

func (r *heldRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return classify(err)
}

// noRows stands for the rows of a query that never began.
type noRows struct {
	pgx.Rows // nil: the methods below are all that is ever called
	err      error
}

func (r noRows) Close()                                       {}
func (r noRows) Err() error                                   { return r.err }
func (r noRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r noRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r noRows) Next() bool                                   { return false }
func (r noRows) Scan(...any) error                            { return r.err }
func (r noRows) Values() ([]any, error)                       { return nil, r.err }
func (r noRows) RawValues() [][]byte                          { return nil }

// oneRow scans the first of the rows and closes them.
type oneRow struct {
	rows pgx.Rows
	err  error
}

func (r oneRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// heldBatch gives back what its batch holds once the results are closed.
type heldBatch struct {
	pgx.BatchResults
	release func()
}

func (b *heldBatch) Close() error {
	err := b.BatchResults.Close()
	if b.release != nil {
		b.release()
		b.release = nil
	}
	return classify(err)
}

func (b *heldBatch) Exec() (pgconn.CommandTag, error) {
	tag, err := b.BatchResults.Exec()
	return tag, classify(err)
}

func (b *heldBatch) Query() (pgx.Rows, error) {
	rows, err := b.BatchResults.Query()
	return &heldRows{Rows: rows}, classify(err)
}

func (b *heldBatch) QueryRow() pgx.Row {
	rows, err := b.Query()
	return oneRow{rows: rows, err: err}
}

// failedBatch stands for the results of a batch that was never sent.
type failedBatch struct {
	pgx.BatchResults // nil: the methods below are all that is ever called
	err              error
}

func (b failedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b failedBatch) Query() (pgx.Rows, error)         { return noRows{err: b.err}, b.err }
func (b failedBatch) QueryRow() pgx.Row                { return oneRow{err: b.err} }
func (b failedBatch) Close() error                     { return b.err }
