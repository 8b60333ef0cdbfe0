// Command session_mfa lives through an account's sessions and second factor, with the Go packages alone: no server runs.
//
//	go run ./examples/session_mfa --data /var/lib/rootstream
//	go run ./examples/session_mfa --postgres postgres://rootstream@localhost/rootstream --redis redis://localhost:6379
//
// The account is deleted at the end. With --postgres, secrets are sealed by a keyset of the example's own.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"rootstream/auth"
	"rootstream/mfa"
	"rootstream/session"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "session_mfa:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var at servers
	flags := flag.NewFlagSet("session_mfa", flag.ContinueOnError)
	flags.StringVar(&at.data, "data", "", "data folder of rootstream up")
	flags.StringVar(&at.postgres, "postgres", "", "address of the database")
	flags.StringVar(&at.redis, "redis", "", "address of Redis; may be empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if at.data == "" && at.postgres == "" {
		return errors.New("name the servers: --data FOLDER, or --postgres DSN and --redis URL")
	}
	rooms, err := open(ctx, at, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer rooms.close()
	v := &visitor{rooms: rooms, out: out, from: auth.Client{IP: netip.MustParseAddr("192.0.2.1"), UserAgent: "session_mfa"}}
	return v.live(ctx)
}

// visitor is somebody with an account.
type visitor struct {
	*rooms
	out      io.Writer
	from     auth.Client
	password string
	name     string
	backup   []string
	secret   string // of the authenticator, as the app keeps it
}

func (v *visitor) say(format string, args ...any) { _, _ = fmt.Fprintf(v.out, format+"\n", args...) }

// live goes from signing up to leaving.
func (v *visitor) live(ctx context.Context) error {
	v.name, v.password = "example-"+strings.ToLower(rand.Text()[:10]), rand.Text()
	if _, err := v.auth.Register(ctx, auth.Registration{Username: v.name, Email: v.name + "@example.org", Password: v.password}, v.from); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	v.say("registered %s", v.name)
	laptop, err := v.login(ctx, "laptop")
	if err != nil {
		return err
	}
	if err = v.enrol(ctx, laptop); err != nil {
		return err
	}
	phone, err := v.loginWithCode(ctx, "phone")
	if err != nil {
		return err
	}
	if phone, err = v.stepUp(ctx, phone); err != nil {
		return err
	}
	if err = v.revoke(ctx, phone, laptop); err != nil {
		return err
	}
	return v.leave(ctx, phone)
}

// login signs in with the password alone.
func (v *visitor) login(ctx context.Context, device string) (token string, err error) {
	in, err := v.auth.Login(ctx, auth.Credentials{Login: v.name, Password: v.password, DeviceName: device}, v.from)
	if err != nil {
		return "", fmt.Errorf("sign in: %w", err)
	}
	v.say("signed in on the %s, assurance level %d", device, in.Grant.Session.AAL)
	return in.Grant.Token.Reveal(), nil
}

// who turns a token into the principal it stands for, as a server does with each request.
func (v *visitor) who(ctx context.Context, token string) (auth.Principal, error) {
	view, err := v.sessions.Validate(ctx, token, session.ClientHint{IP: v.from.IP, UserAgent: v.from.UserAgent})
	return auth.Principal{View: view}, err
}

// enrol sets up an authenticator app; it counts once a code has proven it.
func (v *visitor) enrol(ctx context.Context, token string) error {
	me, err := v.who(ctx, token)
	if err != nil {
		return err
	}
	e, err := v.auth.EnrollTOTP(ctx, me, v.from)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	v.secret = e.Secret.Reveal() // e.QR is the picture that the app scans instead
	code, err := mfa.CodeAt(v.secret, time.Now())
	if err != nil {
		return err
	}
	if v.backup, err = v.auth.ConfirmTOTP(ctx, me, e.FactorID, code, v.from); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	v.say("authenticator confirmed, %d backup codes", len(v.backup))
	return nil
}

// loginWithCode signs in with the password and the app's code.
func (v *visitor) loginWithCode(ctx context.Context, device string) (token string, err error) {
	in, err := v.auth.Login(ctx, auth.Credentials{Login: v.name, Password: v.password, DeviceName: device}, v.from)
	if err != nil {
		return "", fmt.Errorf("sign in again: %w", err)
	}
	if in.Challenge == nil {
		return "", errors.New("the password alone was enough")
	}
	v.say("the password is not enough now: %v", in.Challenge.Methods)
	code, err := mfa.CodeAt(v.secret, time.Now().Add(30*time.Second)) // the one that confirmed works no second time
	if err != nil {
		return "", err
	}
	grant, err := v.auth.VerifyMFA(ctx, auth.MFAAnswer{ChallengeID: in.Challenge.ID, Method: mfa.TOTP, Code: code}, v.from)
	if err != nil {
		return "", fmt.Errorf("answer the challenge: %w", err)
	}
	v.say("signed in on the %s, assurance level %d", device, grant.Session.AAL)
	return grant.Token.Reveal(), nil
}

// stepUp proves the second factor again, here with a backup code; the session gets a new token.
func (v *visitor) stepUp(ctx context.Context, token string) (string, error) {
	me, err := v.who(ctx, token)
	if err != nil {
		return "", err
	}
	grant, err := v.auth.Reauthenticate(ctx, me, auth.Proof{Method: mfa.BackupCode, Code: v.backup[0]}, v.from)
	if err != nil {
		return "", fmt.Errorf("step up: %w", err)
	}
	if _, err := v.who(ctx, token); !errors.Is(err, session.ErrInvalid) {
		return "", fmt.Errorf("the old token still stands: %w", err)
	}
	v.say("stepped up with a backup code; the old token is refused")
	return grant.Token.Reveal(), nil
}

// revoke ends all sessions but the one of token.
func (v *visitor) revoke(ctx context.Context, token, other string) error {
	me, err := v.who(ctx, token)
	if err != nil {
		return err
	}
	n, err := v.auth.RevokeOtherSessions(ctx, me)
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	if _, err := v.who(ctx, other); !errors.Is(err, session.ErrInvalid) {
		return fmt.Errorf("a revoked token still stands: %w", err)
	}
	v.say("ended %d other session; its token is refused", n)
	return nil
}

// leave deletes the account.
func (v *visitor) leave(ctx context.Context, token string) error {
	me, err := v.who(ctx, token)
	if err != nil {
		return err
	}
	if err := v.auth.DeleteAccount(ctx, me, v.from); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	v.say("deleted %s", v.name)
	return nil
}
