package api

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"rootstream/auth"
	"rootstream/event"
	"rootstream/mfa"
	"rootstream/secret"
	"rootstream/session"
	"rootstream/statesync"
	"rootstream/stream"
	"rootstream/user"
)

// Deps are the services behind the routes.
type Deps struct {
	Auth        Auth
	Sessions    Sessions
	Factors     Factors
	Users       Users
	Streams     Streams
	Events      Events
	State       State
	StateTypes  map[string]StateType // those of the configuration, beside stream, user and session
	Backups     Backups              // nil: none are configured here
	Checks      []Check              // what /readyz asks
	MinPassword int                  // shown on the setup page
}

// Auth signs people up, in and out, and administers accounts; see auth.Service.
type Auth interface {
	signing
	accounts
	ownSessions
	factors
	administration
}

type signing interface {
	Login(ctx context.Context, in auth.Credentials, c auth.Client) (auth.Login, error)
	VerifyMFA(ctx context.Context, in auth.MFAAnswer, c auth.Client) (auth.Grant, error)
	Refresh(ctx context.Context, token string, c auth.Client) (auth.Grant, error)
	Logout(ctx context.Context, token string) error
	Reauthenticate(ctx context.Context, p auth.Principal, in auth.Proof, c auth.Client) (auth.Grant, error)
	RequestRecovery(ctx context.Context, login string, c auth.Client) error
	ConfirmRecovery(ctx context.Context, token, password string, c auth.Client) error
}

type accounts interface {
	Register(ctx context.Context, r auth.Registration, c auth.Client) (user.User, error)
	VerifyEmail(ctx context.Context, token string, c auth.Client) error
	ResendVerification(ctx context.Context, p auth.Principal) error
	UpdateProfile(ctx context.Context, p auth.Principal, patch user.Profile) (user.User, error)
	ChangePassword(ctx context.Context, p auth.Principal, current, next string, c auth.Client) (auth.Grant, error)
	ChangeEmail(ctx context.Context, p auth.Principal, email string, c auth.Client) error
	ConfirmEmail(ctx context.Context, token string, c auth.Client) error
	UndoEmail(ctx context.Context, token string, c auth.Client) error
	DeleteAccount(ctx context.Context, p auth.Principal, c auth.Client) error
	Export(ctx context.Context, p auth.Principal) (auth.Export, error)
	BootstrapAdmin(ctx context.Context, setupToken string, r auth.Registration, c auth.Client) (user.User, error)
}

type ownSessions interface {
	RevokeSession(ctx context.Context, p auth.Principal, id uuid.UUID) error
	RevokeOtherSessions(ctx context.Context, p auth.Principal) (int, error)
	RevokeAllSessions(ctx context.Context, p auth.Principal) (int, error)
	RenameSession(ctx context.Context, p auth.Principal, id uuid.UUID, name string) (session.Session, error)
}

type factors interface {
	EnrollTOTP(ctx context.Context, p auth.Principal, c auth.Client) (mfa.Enrollment, error)
	ConfirmTOTP(ctx context.Context, p auth.Principal, factor uuid.UUID, code string, c auth.Client) ([]string, error)
	RemoveTOTP(ctx context.Context, p auth.Principal, factor uuid.UUID, c auth.Client) error
	RegenerateBackupCodes(ctx context.Context, p auth.Principal, c auth.Client) ([]string, error)
}

type administration interface {
	RequireFresh(ctx context.Context, p auth.Principal) error
	AllowWrite(ctx context.Context, p auth.Principal) error
	RequireFactor(ctx context.Context, p auth.Principal) error
	CreateUser(ctx context.Context, by auth.Actor, a auth.Account) (user.User, error)
	SetRole(ctx context.Context, by auth.Actor, id uuid.UUID, role user.Role) (user.User, error)
	Disable(ctx context.Context, by auth.Actor, id uuid.UUID) (user.User, error)
	Enable(ctx context.Context, by auth.Actor, id uuid.UUID) (user.User, error)
	VerifyUser(ctx context.Context, by auth.Actor, id uuid.UUID) (user.User, error)
	SetEmail(ctx context.Context, by auth.Actor, id uuid.UUID, email string, verified bool) (user.User, error)
	DeleteUser(ctx context.Context, by auth.Actor, id uuid.UUID) error
	ResetMFA(ctx context.Context, by auth.Actor, id uuid.UUID) error
	ResumeMFA(ctx context.Context, by auth.Actor, id uuid.UUID) error
	RevokeSessions(ctx context.Context, by auth.Actor, id uuid.UUID) (int, error)
	EndSession(ctx context.Context, by auth.Actor, id uuid.UUID) error
	Session(ctx context.Context, id uuid.UUID) (session.Session, error)
}

// Sessions validates tokens and lists sessions; see session.Manager.
type Sessions interface {
	Validate(ctx context.Context, token string, hint session.ClientHint) (session.View, error)
	ValidateBatch(ctx context.Context, tokens []string) ([]session.Result, error)
	List(ctx context.Context, userID int64) ([]session.Session, error)
}

// Factors tells about second factors; see mfa.Manager.
type Factors interface {
	Status(ctx context.Context, userID int64) (mfa.Status, error)
	Attempts(ctx context.Context, userID int64, limit int, cursor string) ([]mfa.Record, string, error)
}

// Users reads accounts; see user.Store.
type Users interface {
	ByPublicID(ctx context.Context, id uuid.UUID) (user.User, error)
	List(ctx context.Context, limit int, cursor string, f user.Filter) (user.Page, error)
}

// Events reads the log; see event.Store.
type Events interface {
	Read(ctx context.Context, p event.Page) ([]event.Event, error)
	Audit(ctx context.Context, userID uuid.UUID, last event.Position, limit int) ([]event.Event, error)
}

// State keeps the state of entities that all instances share; see statesync.Manager.
type State interface {
	Get(ctx context.Context, ref event.Ref, read statesync.Read) (statesync.Doc, error)
	GetAt(ctx context.Context, ref event.Ref, at event.At) (statesync.Doc, error)
	Patch(ctx context.Context, ref event.Ref, patch json.RawMessage, o statesync.UpdateOptions) (statesync.Result, error)
	Lend(ref event.Ref, doc json.RawMessage) (time.Duration, error)
	Token() statesync.Token
	Subscribe(ctx context.Context, patterns []string, o statesync.SubOptions, fn func(statesync.Change) error) error
	Conflicts(ctx context.Context, p statesync.ConflictPage) ([]statesync.Conflict, string, error)
	RestoreLoser(ctx context.Context, id uuid.UUID, actor *uuid.UUID) (statesync.Result, error)
}

// StateType is what the API has to know of a type of the configuration.
type StateType struct {
	Volatile bool
	Write    session.Role // the least role that may change it; everybody may read it
}

// Streams keeps streams; see stream.Store, whose writes are each given a transaction of their own.
type Streams interface {
	streamWrites
	ByPublicID(ctx context.Context, a stream.Account, id uuid.UUID) (stream.Stream, error)
	Owner(ctx context.Context, id uuid.UUID) (uuid.UUID, error)
	Streams(ctx context.Context, a stream.Account, by stream.Filter) (stream.Page[stream.Stream], error)
	Sessions(ctx context.Context, a stream.Account, id uuid.UUID, l stream.List) (stream.Page[stream.Session], error)
	Recordings(ctx context.Context, a stream.Account, id uuid.UUID, l stream.List) (stream.Page[stream.Recording], error)
	Usage(ctx context.Context, a stream.Account, l stream.List) (stream.Page[stream.Usage], error)
	Viewers(ctx context.Context, a stream.Account, id uuid.UUID) (stream.Figures, error)
	Join(ctx context.Context, a stream.Account, id uuid.UUID) (stream.Viewer, error)
	Renew(ctx context.Context, a stream.Account, id, viewer uuid.UUID) (stream.Viewer, error)
	Leave(ctx context.Context, a stream.Account, id, viewer uuid.UUID) error
}

type streamWrites interface {
	Create(ctx context.Context, owner stream.Account, d stream.Draft) (stream.Created, error)
	Update(ctx context.Context, a stream.Account, id uuid.UUID, p stream.Patch) (stream.Stream, error)
	RotateKey(ctx context.Context, a stream.Account, id uuid.UUID) (secret.Secret, error)
	Delete(ctx context.Context, a stream.Account, id uuid.UUID) error
	Start(ctx context.Context, a stream.Account, id uuid.UUID, first stream.Stats) (stream.Session, error)
	Stop(ctx context.Context, a stream.Account, id uuid.UUID) (stream.Session, error)
	UpdateStats(ctx context.Context, a stream.Account, id uuid.UUID, t stream.Stats) (stream.Stream, error)
	AddRecording(ctx context.Context, a stream.Account, id uuid.UUID, r stream.File) (stream.Recording, error)
}

// list is a page of things.
type list[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty" doc:"Give it as cursor to get what follows; absent on the last page."`
}

type output[T any] struct{ Body T }

func reply[T any](v T, err error) (*output[T], error) {
	if err != nil {
		return nil, err
	}
	return &output[T]{v}, nil
}

type empty struct{}

func nothing(err error) (*empty, error) { return nil, err }
