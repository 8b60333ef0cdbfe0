package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/event"
	"rootstream/session"
	"rootstream/statesync"
	"rootstream/stream"
)

// stateBody is an entity's state.
type stateBody struct {
	Type      string          `json:"type"`
	ID        uuid.UUID       `json:"id"`
	Version   int64           `json:"version" doc:"Also the ETag; 0 for volatile state."`
	At        *time.Time      `json:"at,omitempty" doc:"When it became so."`
	State     json.RawMessage `json:"state"`
	Token     string          `json:"token,omitempty" doc:"Give it as token where you read or watch next: nothing from before it is missed."`
	ExpiresIn int             `json:"expires_in,omitempty" doc:"Seconds until volatile state that was set here is gone."`
}

// object is the schema of whatever document.
type object json.RawMessage

// Schema says that it is an object; huma asks.
func (object) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
}

// UnmarshalJSON keeps the text.
func (o *object) UnmarshalJSON(b []byte) error {
	*o = append((*o)[:0], b...)
	return nil
}

// StatePath names an entity.
type StatePath struct {
	Type string `path:"type" maxLength:"50" doc:"stream, user, session, or a type of the configuration."`
	PathID
}

func (p StatePath) ref() event.Ref { return event.Ref{Type: p.Type, ID: p.ID} }

type getStateInput struct {
	StatePath
	Version     int64     `query:"version" minimum:"1" doc:"The state as of this version."`
	At          time.Time `query:"at" doc:"The state as of this time (RFC 3339)."`
	Token       string    `query:"token" maxLength:"240" doc:"Nothing older than this: what a change was answered with."`
	TokenHeader string    `header:"X-State-Token" doc:"The same."`
	IfNoneMatch string    `header:"If-None-Match" doc:"The version that is known; 304 if it is still that."`
}

type patchStateInput struct {
	StatePath
	IfMatch string `header:"If-Match" doc:"The version it must have, as \"7\"; \"0\" for one that is not there yet; * for any that is there. Required, but for volatile state."`
	Key     string `header:"Idempotency-Key" doc:"At most 64 printable characters: the same change under the same key happens once."`
	Body    object
}

type stateOutput struct {
	Status int
	ETag   string `header:"ETag"`
	Token  string `header:"X-State-Token"`
	Body   stateBody
}

// Errors of state.
var (
	errIfMatch = &Problem{
		Type: "about:blank", Title: http.StatusText(http.StatusPreconditionRequired), Status: http.StatusPreconditionRequired, Code: "if_match_required",
		Detail: "say which version you change", Hint: `read it, and send its ETag as If-Match; "0" makes a new one, * takes whatever is there`,
	}
	errChanged = errs.New(errs.Precondition, "version_conflict", "it has changed since it was read").WithHint("read it again, and make the change to that")
	errNotMine = errs.New(errs.Forbidden, "role_required", "you may not change this")
)

func (s *Server) stateRoutes() {
	tags := []string{"state"}
	handle(s, huma.Operation{
		OperationID: "get-state", Method: http.MethodGet, Path: "/v1/state/{type}/{id}", Tags: tags, Summary: "The state of one entity, now or then",
		Description: "What users may see: their own user and sessions, streams that are public or theirs, and types of the configuration.",
		Errors:      []int{http.StatusNotFound, http.StatusGone},
	}, anyUser, s.getState)
	patch := huma.Operation{
		OperationID: "patch-state", Method: http.MethodPatch, Path: "/v1/state/{type}/{id}", Tags: tags, Summary: "Change the state of one entity (merge patch)",
		Description: "Durable state is in PostgreSQL before this answers. Users change what is their own; who may change types of the configuration is said there.",
		Errors:      []int{http.StatusNotFound, http.StatusPreconditionFailed, http.StatusPreconditionRequired, http.StatusConflict},
		RequestBody: &huma.RequestBody{Content: map[string]*huma.MediaType{mergePatchType: {Schema: object{}.Schema(nil)}}},
	}
	patching := anyUser
	patching.patch = true
	handle(s, patch, patching, s.patchState)
	s.conflictRoutes([]string{"state"})
}

func (s *Server) getState(ctx context.Context, in *getStateInput) (*stateOutput, error) {
	ref := in.ref()
	if err := s.mayReadState(ctx, ref); err != nil {
		return nil, err
	}
	read, err := in.read()
	if err != nil {
		return nil, err
	}
	token := s.deps.State.Token() // before reading: whoever watches from here misses nothing
	var d statesync.Doc
	if in.Version != 0 || !in.At.IsZero() {
		d, err = s.deps.State.GetAt(ctx, ref, event.At{Version: in.Version, Time: in.At})
		token = statesync.Token{}
	} else {
		d, err = s.deps.State.Get(ctx, ref, read)
	}
	if err != nil {
		return nil, err
	}
	out, err := stateAnswer(d, token)
	if err == nil && out.ETag != "" && etagIn(in.IfNoneMatch, out.ETag) {
		out.Status = http.StatusNotModified
	}
	return out, err
}

// read says how current the answer has to be.
func (in *getStateInput) read() (statesync.Read, error) {
	var f errs.Fields
	if in.Version != 0 && !in.At.IsZero() {
		f.Add("at", "does not go together with version")
	}
	text, field := in.Token, "token"
	if text == "" {
		text, field = in.TokenHeader, "X-State-Token"
	}
	t, err := statesync.ParseToken(text)
	if err != nil {
		f.Add(field, "is not a token of ours")
	}
	if err := f.Err(); err != nil {
		return statesync.Read{}, err
	}
	return statesync.AtLeast(t), nil
}

func stateAnswer(d statesync.Doc, t statesync.Token) (*stateOutput, error) {
	raw, err := json.Marshal(d.Data)
	if err != nil {
		return nil, err
	}
	out := &stateOutput{Status: http.StatusOK, Token: t.String()}
	out.Body = stateBody{Type: d.Ref.Type, ID: d.Ref.ID, Version: d.Version, State: raw, Token: out.Token}
	if !d.At.IsZero() {
		at := d.At.UTC()
		out.Body.At = &at
	}
	if d.Version > 0 {
		out.ETag = etagOf(d.Version)
	}
	return out, nil
}

func etagOf(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// etagIn reports whether a list of entity tags holds one, compared weakly (RFC 9110, 13.1.2).
func etagIn(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		one = strings.TrimSpace(one)
		if one == "*" || strings.TrimPrefix(one, "W/") == tag {
			return true
		}
	}
	return false
}

// expected reads If-Match: the version that is expected, nil for any.
func expected(ifMatch string) (*int64, error) {
	switch ifMatch = strings.TrimSpace(ifMatch); ifMatch {
	case "":
		return nil, errIfMatch
	case "*":
		return nil, nil //nolint:nilnil // any
	}
	text, ok := strings.CutPrefix(ifMatch, `"`)
	text, closed := strings.CutSuffix(text, `"`)
	v, err := strconv.ParseInt(text, 10, 64)
	if !ok || !closed || err != nil || v < 0 || etagOf(v) != ifMatch {
		return nil, errs.NewInvalid("If-Match", `must be one version in quotes, such as "7", or *`)
	}
	return &v, nil
}

const maxIdempotencyKey = 64

// idempotencyKey is the caller's key, which is nobody else's.
func idempotencyKey(ctx context.Context, key string) (string, error) {
	if key == "" {
		return "", nil
	}
	for _, c := range key {
		if c <= ' ' || c > '~' {
			key = ""
			break
		}
	}
	if key == "" || len(key) > maxIdempotencyKey {
		return "", errs.NewInvalid("Idempotency-Key", "must be at most 64 printable ASCII characters without spaces")
	}
	return "state:" + caller(ctx).UserID.String() + ":" + key, nil
}

func (s *Server) patchState(ctx context.Context, in *patchStateInput) (*stateOutput, error) {
	ref := in.ref()
	owner, err := s.mayChangeState(ctx, ref)
	if err != nil {
		return nil, err
	}
	if s.deps.StateTypes[ref.Type].Volatile {
		return s.lend(ref, in.Body)
	}
	expect, err := expected(in.IfMatch)
	if err != nil {
		return nil, withRequest(ctx, err)
	}
	key, err := idempotencyKey(ctx, in.Key)
	if err != nil {
		return nil, err
	}
	o := statesync.UpdateOptions{Expect: expect, There: expect == nil, IdempotencyKey: key}
	if owner != uuid.Nil {
		o.User = &owner
	}
	if me := caller(ctx).UserID; me != owner {
		o.Actor = &me
	}
	r, err := s.deps.State.Patch(ctx, ref, json.RawMessage(in.Body), o)
	switch {
	case errors.Is(err, event.ErrVersion), errors.Is(err, statesync.ErrRejected), o.There && errors.Is(err, statesync.ErrNotFound):
		return nil, errChanged.WithCause(err)
	case err != nil:
		return nil, err
	}
	r.Doc.Version = r.Version
	return stateAnswer(r.Doc, r.Token)
}

// withRequest names the request in a problem that is the same for all.
func withRequest(ctx context.Context, err error) error {
	p, ok := errors.AsType[*Problem](err)
	if !ok {
		return err
	}
	c := *p
	c.RequestID = requestID(ctx)
	return &c
}

// lend sets what this instance says of a volatile entity.
func (s *Server) lend(ref event.Ref, doc object) (*stateOutput, error) {
	life, err := s.deps.State.Lend(ref, json.RawMessage(doc))
	if err != nil {
		return nil, err
	}
	out := &stateOutput{Status: http.StatusOK}
	out.Body = stateBody{Type: ref.Type, ID: ref.ID, State: json.RawMessage(doc), ExpiresIn: int(life.Seconds())}
	return out, nil
}

// mayReadState refuses state that is not the caller's to see. What is not there and what is somebody else's look the same.
func (s *Server) mayReadState(ctx context.Context, ref event.Ref) error {
	p := caller(ctx)
	_, configured := s.deps.StateTypes[ref.Type]
	switch {
	case configured:
		return nil
	case ref.Type == "stream":
		_, err := s.deps.Streams.ByPublicID(ctx, streamAccount(ctx), ref.ID)
		if errors.Is(err, stream.ErrNotFound) {
			return errNoEntity
		}
		return err
	case ref.Type != "user" && ref.Type != "session":
		return statesync.ErrUnknownType
	case p.Role >= session.RoleOperator || ref.Type == "user" && ref.ID == p.UserID:
		return nil
	case ref.Type == "session":
		return s.isMySession(ctx, ref.ID)
	}
	return errNoEntity
}

func (s *Server) isMySession(ctx context.Context, id uuid.UUID) error {
	if id == caller(ctx).SessionID {
		return nil
	}
	found, err := s.deps.Auth.Session(ctx, id)
	switch {
	case errors.Is(err, session.ErrNotFound), err == nil && found.UserID != caller(ctx).UserID:
		return errNoEntity
	}
	return err
}

// mayChangeState refuses state that is not the caller's to change, and says
// whose it is: what is erased with an account must not be anybody else's.
func (s *Server) mayChangeState(ctx context.Context, ref event.Ref) (owner uuid.UUID, err error) {
	p := caller(ctx)
	if err := s.mayReadState(ctx, ref); err != nil {
		return owner, err
	}
	t, configured := s.deps.StateTypes[ref.Type]
	switch {
	case configured:
		return uuid.Nil, p.RequireRole(t.Write)
	case ref.Type == "user" && ref.ID == p.UserID:
		return p.UserID, nil
	case ref.Type == "stream":
		found, err := s.deps.Streams.ByPublicID(ctx, streamAccount(ctx), ref.ID)
		if err == nil && found.UserID != p.UserID && p.Role < session.RoleOperator {
			err = errNoEntity
		}
		return found.UserID, err
	case ref.Type == "session":
		return owner, statesync.ErrReadOnly
	}
	return owner, errNotMine
}

type conflictsInput struct {
	Type string    `query:"type" maxLength:"50" doc:"Of one entity only, with id."`
	ID   uuid.UUID `query:"id" format:"uuid"`
	Open bool      `query:"open" doc:"Only those that nobody has resolved."`
	Paging
}

func (s *Server) conflictRoutes(tags []string) {
	handle(s, huma.Operation{
		OperationID: "list-conflicts", Method: http.MethodGet, Path: "/v1/conflicts", Tags: tags, Summary: "Decisions between two changes of one entity, newest first",
		Description: "Both values are kept: what was decided against can be restored.",
	}, anyOperator, func(ctx context.Context, in *conflictsInput) (*output[list[statesync.Conflict]], error) {
		page := statesync.ConflictPage{Open: in.Open, Cursor: in.Cursor, Limit: in.Limit}
		if (in.Type == "") != (in.ID == uuid.Nil) {
			return nil, errs.NewInvalid("id", "goes together with type")
		}
		if in.Type != "" {
			page.Ref = &event.Ref{Type: in.Type, ID: in.ID}
		}
		items, next, err := s.deps.State.Conflicts(ctx, page)
		return reply(list[statesync.Conflict]{Items: items, NextCursor: next}, err)
	})
	handle(s, huma.Operation{
		OperationID: "restore-conflict", Method: http.MethodPost, Path: "/v1/conflicts/{id}/restore", Tags: tags,
		Summary: "Make the value that lost the state again", Description: "What it replaces stays in the history.", Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, operating, func(ctx context.Context, in *PathID) (*stateOutput, error) {
		me := caller(ctx).UserID
		r, err := s.deps.State.RestoreLoser(ctx, in.ID, &me)
		if err != nil {
			return nil, err
		}
		r.Doc.Version = r.Version
		return stateAnswer(r.Doc, r.Token)
	})
}
