package pgserver

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/errs"
)

// EnsureDatabase makes a login role and a database it owns, if they are
// missing; the role's password joins the pass file. A role that exists with
// another password gets the one on file. A standby is left as it is.
func (s *Server) EnsureDatabase(ctx context.Context, database, owner string) error {
	for field, name := range map[string]string{"database": database, "owner": owner} {
		if err := checkName(field, name); err != nil {
			return err
		}
	}
	pass, err := s.ensurePass(owner)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if own, refused := s.connect(ctx, owner, pass, database); refused == nil {
		return own.Close(ctx)
	}
	super, err := s.PasswordOf(s.cfg.Superuser)
	if err != nil {
		return fmt.Errorf("read the superuser's password: %w", err)
	}
	conn, err := s.connect(ctx, s.cfg.Superuser, super, "postgres")
	if err != nil {
		return fmt.Errorf("connect as %s: %w", s.cfg.Superuser, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	standby, err := one(ctx, conn, "select pg_is_in_recovery()::text")
	if err != nil || standby == "true" {
		return err
	}
	if err = ensureRole(ctx, conn, owner, pass); err != nil {
		return err
	}
	found, err := one(ctx, conn, "select count(*) from pg_database where datname = '"+database+"'")
	if err != nil || found != "0" {
		return err
	}
	if _, err = one(ctx, conn, `create database "`+database+`" owner "`+owner+`"`); err != nil {
		return fmt.Errorf("create database %s: %w", database, err)
	}
	return nil
}

func ensureRole(ctx context.Context, conn *pgconn.PgConn, name, pass string) error {
	found, err := one(ctx, conn, "select count(*) from pg_roles where rolname = '"+name+"'")
	if err != nil {
		return err
	}
	verb := "alter"
	if found == "0" {
		verb = "create"
	}
	verifier, err := scramVerifier(pass)
	if err != nil {
		return err
	}
	// The server only ever sees the verifier, so no statement log can hold the password.
	if _, err = one(ctx, conn, verb+` role "`+name+`" login password '`+verifier+"'"); err != nil {
		return fmt.Errorf("%s role %s: %w", verb, name, err)
	}
	return nil
}

// URL returns a connection URL over the Unix socket with the password in it: for private files only.
func (s *Server) URL(user, database string) (string, error) {
	pass, err := s.PasswordOf(user)
	if err != nil {
		return "", err
	}
	a := s.address()
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, pass), Path: "/" + database,
		RawQuery: url.Values{"host": {a.socketDir}, "port": {strconv.Itoa(a.port)}, "sslmode": {"disable"}}.Encode(),
	}
	return u.String(), nil
}

func (s *Server) connect(ctx context.Context, user, pass, database string) (*pgconn.PgConn, error) {
	a := s.address()
	cfg, err := pgconn.ParseConfig("sslmode=disable connect_timeout=10")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Password, cfg.Database = a.socketDir, uint16(a.port), user, pass, database //nolint:gosec // checked by New
	cfg.Fallbacks = nil
	return pgconn.ConnectConfig(ctx, cfg)
}

// one runs a statement and returns its first value, if any.
func one(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) == 0 || len(results[0].Rows) == 0 || len(results[0].Rows[0]) == 0 {
		return "", nil
	}
	return string(results[0].Rows[0][0]), nil
}

// scramVerifier returns what pg_authid keeps (RFC 5803); pass is ASCII, so it needs no SASLprep.
func scramVerifier(pass string) (string, error) {
	const rounds = 4096
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(sha256.New, pass, salt, rounds, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive password verifier: %w", err)
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		_, _ = h.Write([]byte(text)) // never fails
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

func checkName(field, name string) error {
	if !roleName.MatchString(name) {
		return errs.NewInvalid(field, "must be letters, digits and underscores")
	}
	return nil
}
