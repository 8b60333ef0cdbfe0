package wire

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"rootstream/backup/pgdata"
	"rootstream/backup/replication"
	"rootstream/backup/wal"
)

// Request says how the server is to take a base backup.
type Request struct {
	Major   int    // the server's version
	Catalog uint32 // and that of its catalog, which names a folder in tablespaces
	Label   string
	Fast    bool  // hurry the checkpoint that it begins with
	Rate    int64 // bytes a second that it sends at most; 0: no limit
}

// command is what the server is told. The log is not asked for: it comes another way. Checksums of pages are verified
// over there, where a page that is half written can be read again.
func (q Request) command() string {
	label := "LABEL '" + strings.ReplaceAll(q.Label, "'", "''") + "'"
	var rate string
	if q.Rate > 0 {
		const least, most = 32, 1 << 20 // KiB that the server takes
		rate = "MAX_RATE " + strconv.FormatInt(min(max(q.Rate>>10, least), most), 10)
	}
	options := []string{label, "PROGRESS", "TABLESPACE_MAP", "MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"}
	if rate != "" {
		options = append(options, rate)
	}
	if q.Major < 15 {
		options = append(options, "NOWAIT")
		if q.Fast {
			options = append(options, "FAST")
		}
		return "BASE_BACKUP " + strings.Join(options, " ")
	}
	options = append(options, "WAIT false")
	if q.Fast {
		options = append(options, "CHECKPOINT 'fast'")
	}
	return "BASE_BACKUP (" + strings.Join(options, ", ") + ")"
}

// Backup is a base backup on its way.
type Backup struct {
	Start       wal.LSN
	Timeline    wal.TimelineID
	Tablespaces []pgdata.Tablespace
	Size        int64 // about

	c        *Conn
	tagged   bool      // since 15 all archives come in one copy
	archives []archive // in the order in which they come
	version  string    // the folder's name in tablespaces
	end      End
}

// End is what is known once everything has arrived.
type End struct {
	Stop       wal.LSN
	Timeline   wal.TimelineID
	Label      []byte // backup_label
	Spaces     []byte // tablespace_map
	Control    []byte // pg_control
	ControlAt  pgdata.Entry
	WrongPages bool // the server found pages with a wrong checksum
}

// archive is a tar: of a tablespace, or with none the data folder.
type archive struct{ space pgdata.Tablespace }

func (a archive) name() string {
	if a.space.OID == 0 {
		return "base.tar"
	}
	return strconv.FormatUint(uint64(a.space.OID), 10) + ".tar"
}

// folder is where in the data folder the archive belongs.
func (a archive) folder() string {
	if a.space.OID == 0 {
		return ""
	}
	return path.Join("pg_tblspc", strconv.FormatUint(uint64(a.space.OID), 10))
}

// Begin has the server begin a base backup. It waits for a checkpoint, which may take as long as ctx allows.
func (c *Conn) Begin(ctx context.Context, q Request) (*Backup, error) {
	c.conn.Frontend().SendQuery(&pgproto3.Query{String: q.command()})
	if err := c.conn.Frontend().Flush(); err != nil {
		return nil, ErrStream.WithCause(err)
	}
	b := &Backup{c: c, tagged: q.Major >= 15, version: fmt.Sprintf("PG_%d_%d", q.Major, q.Catalog)}
	var err error
	if b.Start, b.Timeline, err = position(ctx, c.receive); err != nil {
		return nil, b.fault(ctx, "begin a base backup", err)
	}
	const mostSpaces = 1 << 16
	spaces, err := rows(ctx, c.receive, mostSpaces)
	if err == nil {
		err = b.header(spaces)
	}
	if err != nil {
		return nil, b.fault(ctx, "begin a base backup", err)
	}
	return b, nil
}

// fault is what went wrong, with what was being done; that we gave up ourselves is no fault of the server.
func (b *Backup) fault(ctx context.Context, doing string, err error) error {
	const noPrivilege = "42501"
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrStream):
		return err
	case replication.HasState(err, noPrivilege):
		return ErrRole.WithCause(fmt.Errorf("%s: %w", doing, err))
	}
	return ErrStream.WithCause(fmt.Errorf("%s: %w", doing, err))
}

// header reads the list of tablespaces: oid, place and KiB of each, the data folder without the first two.
func (b *Backup) header(rows [][][]byte) error {
	bases := 0
	for _, row := range rows {
		if len(row) < 3 {
			return errors.New("the list of tablespaces has too few columns")
		}
		if size, err := strconv.ParseInt(string(row[2]), 10, 64); err == nil && size > 0 && size < math.MaxInt64>>20 {
			b.Size += size << 10
		}
		if row[0] == nil {
			bases++
			b.archives = append(b.archives, archive{})
			continue
		}
		oid, err := strconv.ParseUint(string(row[0]), 10, 32)
		place := string(row[1])
		if err != nil || oid == 0 || !path.IsAbs(place) || strings.ContainsRune(place, 0) {
			return fmt.Errorf("tablespace %.20q at %.100q is not one outside of the data folder", row[0], place)
		}
		space := pgdata.Tablespace{OID: uint32(oid), Location: place}
		b.Tablespaces = append(b.Tablespaces, space)
		b.archives = append(b.archives, archive{space})
	}
	if bases != 1 {
		return fmt.Errorf("%d data folders", bases)
	}
	return nil
}
