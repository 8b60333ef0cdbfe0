package auth_test

import (
	"context"
	"fmt"
	"time"

	"rootstream/auth"
	"rootstream/internal/exampletest"
	"rootstream/mfa"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/user"
)

// Somebody registers, signs in, sets up an authenticator and signs in with it.
func ExampleService() {
	ctx := context.Background()
	o := exampletest.New()
	defer o.End()
	now := time.Now().Truncate(30 * time.Second) // examples need a clock that they move
	service, sessions := exampleService(ctx, postgrestest.New(o), func() time.Time { return now })
	here := auth.Client{UserAgent: "example"}

	ada, err := service.Register(ctx, auth.Registration{
		Username: "ada", Email: "ada@example.org", Password: "wet socks on tuesday",
	}, here)
	fmt.Println("registered", ada.Username, err)

	who := auth.Credentials{Login: "ada", Password: "wet socks on tuesday", DeviceName: "Desk"}
	login, err := service.Login(ctx, who, here)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("signed in at level", login.Grant.Session.AAL, "with token", login.Grant.Token)

	view, err := sessions.Validate(ctx, login.Grant.Token.Reveal(), session.ClientHint{})
	if err != nil {
		fmt.Println(err)
		return
	}
	me := auth.Principal{View: view}
	enrolled, err := service.EnrollTOTP(ctx, me, here)
	if err != nil {
		fmt.Println(err)
		return
	}
	code, _ := mfa.CodeAt(enrolled.Secret.Reveal(), now) // what the owner's phone shows
	backup, err := service.ConfirmTOTP(ctx, me, enrolled.FactorID, code, here)
	fmt.Println("authenticator set up with", len(backup), "backup codes:", err)

	login, err = service.Login(ctx, who, here)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the password alone is enough:", login.Grant != nil, "- methods:", login.Challenge.Methods)

	now = now.Add(30 * time.Second)
	code, _ = mfa.CodeAt(enrolled.Secret.Reveal(), now)
	grant, err := service.VerifyMFA(ctx, auth.MFAAnswer{ChallengeID: login.Challenge.ID, Method: mfa.TOTP, Code: code}, here)
	fmt.Println("signed in at level", grant.Session.AAL, "by", grant.Session.AMR, err)
	// Output:
	// registered ada <nil>
	// signed in at level 1 with token [redacted]
	// authenticator set up with 10 backup codes: <nil>
	// the password alone is enough: false - methods: [totp backup_code]
	// signed in at level 2 by [pwd otp] <nil>
}

// exampleService joins the parts of a process that has no Redis.
func exampleService(ctx context.Context, db *postgres.DB, now func() time.Time) (*auth.Service, *session.Manager) {
	master, err := secret.NewMasterKey([]byte("an example's key is no secret at all"))
	must(err)
	keys, err := secret.Open(ctx, db, master, "main")
	must(err)
	hasher, err := user.NewHasher(user.HasherConfig{})
	must(err)
	sessions, err := session.NewManager(session.Config{DB: db, Keys: keys})
	must(err)
	must(sessions.Poll(ctx))
	factors, err := mfa.New(db, keys, mfa.Config{Now: now})
	must(err)
	service, err := auth.New(auth.Deps{
		DB: db, Users: user.NewStore(db), Hasher: hasher, Sessions: sessions, MFA: factors, Keyset: keys,
		Config: auth.Config{Now: now},
	})
	must(err)
	return service, sessions
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
