package api_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"rootstream/postgres"
	"rootstream/stream"
	"rootstream/user"
)

// The columns of the matrix. Everybody has a second factor. What a path names
// (a stream that is not public, a session, a factor, an account) is the owner's,
// to whom the three columns after anonymous belong.
var columns = []string{
	"anonymous", "AAL1", "AAL2 stale", "AAL2 fresh", "other user", "operator", "operator stale", "admin", "admin stale",
}

// matrix says what each of them gets, for every operation there is.
// 403a is aal_required, 403r is role_required, 403f is topic_forbidden.
const matrix = `
operation                anonymous AAL1 stale fresh other operator op.stale admin ad.stale

healthz                  200  200  200  200  200  200  200  200  200
readyz                   200  200  200  200  200  200  200  200  200
openapi                  200  200  200  200  200  200  200  200  200
metrics                  200  200  200  200  200  200  200  200  200
validate-session         200  200  200  200  200  200  200  200  200
validate-sessions        200  200  200  200  200  200  200  200  200
forward-auth             401  200  200  200  200  200  200  200  200

register                 201  201  201  201  201  201  201  201  201
verify-email             410  410  410  410  410  410  410  410  410
setup                    409  409  409  409  409  409  409  409  409
request-recovery         202  202  202  202  202  202  202  202  202
confirm-recovery         410  410  410  410  410  410  410  410  410
login                    200  200  200  200  200  200  200  200  200
verify-mfa               410  410  410  410  410  410  410  410  410
refresh                  401  200  200  200  200  200  200  200  200
logout                   401  204  204  204  204  204  204  204  204
reauthenticate           401  200  200  200  200  200  200  200  200

get-me                   401  200  200  200  200  200  200  200  200
update-me                401  200  200  200  200  200  200  200  200
resend-verification      401  202  202  202  202  202  202  202  202
change-password          401  403a 403a 200  200  200  403a 200  403a
change-email             401  403a 403a 202  202  202  403a 202  403a
confirm-email            410  410  410  410  410  410  410  410  410
undo-email               410  410  410  410  410  410  410  410  410
delete-me                401  403a 403a 204  204  204  403a 204  403a
export-me                401  403a 403a 200  200  200  403a 200  403a
audit-me                 401  200  200  200  200  200  200  200  200

list-usage               401  200  200  200  200  200  200  200  200

list-sessions            401  200  200  200  200  200  200  200  200
rename-session           401  200  200  200  404  404  404  404  404
revoke-session           401  204  204  204  404  404  404  404  404
revoke-sessions          401  204  204  204  204  204  204  204  204

mfa-status               401  200  200  200  200  200  200  200  200
mfa-attempts             401  200  200  200  200  200  200  200  200
enroll-totp              401  403a 403a 409  409  409  403a 409  403a
confirm-totp             401  409  409  409  404  404  404  404  404
remove-totp              401  403a 403a 204  404  404  403a 404  403a
regenerate-backup-codes  401  403a 403a 200  200  200  403a 200  403a

create-stream            401  201  201  201  201  201  201  201  201
list-streams             401  200  200  200  200  200  200  200  200
get-stream               401  200  200  200  404  200  200  200  200
update-stream            401  200  200  200  404  200  200  200  200
delete-stream            401  204  204  204  404  204  403a 204  403a
rotate-stream-key        401  200  200  200  404  200  403a 200  403a
start-stream             401  200  200  200  404  200  200  200  200
stop-stream              401  200  200  200  404  200  200  200  200
stream-stats             401  200  200  200  404  200  200  200  200
stream-sessions          401  200  200  200  404  200  200  200  200
list-recordings          401  200  200  200  404  200  200  200  200
add-recording            401  201  201  201  404  201  201  201  201
join-stream              401  201  201  201  404  201  201  201  201
count-viewers            401  200  200  200  404  200  200  200  200
renew-viewer             401  200  200  200  404  404  404  404  404
leave-stream             401  204  204  204  404  404  404  404  404

list-events              401  200  200  200  404  200  200  200  200

get-state                401  200  200  200  404  200  200  200  200
patch-state              401  200  200  200  404  200  200  200  200
watch                    401  200  200  200  403f 200  200  200  200
list-conflicts           401  403r 403r 403r 403r 200  200  200  200
restore-conflict         401  403r 403r 403r 403r 404  403a 404  403a

admin-list-users         401  403r 403r 403r 403r 200  200  200  200
admin-get-user           401  403r 403r 403r 403r 200  200  200  200
admin-create-user        401  403r 403r 403r 403r 403r 403r 201  403a
admin-set-role           401  403r 403r 403r 403r 403r 403r 200  403a
admin-disable-user       401  403r 403r 403r 403r 403r 403r 200  403a
admin-enable-user        401  403r 403r 403r 403r 403r 403r 200  403a
admin-verify-user        401  403r 403r 403r 403r 403r 403r 200  403a
admin-set-email          401  403r 403r 403r 403r 403r 403r 200  403a
admin-delete-user        401  403r 403r 403r 403r 403r 403r 204  403a
admin-list-sessions      401  403r 403r 403r 403r 200  200  200  200
admin-revoke-sessions    401  403r 403r 403r 403r 403r 403r 200  403a
admin-get-session        401  403r 403r 403r 403r 200  200  200  200
admin-revoke-session     401  403r 403r 403r 403r 204  403a 204  403a
admin-mfa-status         401  403r 403r 403r 403r 200  200  200  200
admin-reset-mfa          401  403r 403r 403r 403r 403r 403r 204  403a
admin-resume-mfa         401  403r 403r 403r 403r 403r 403r 204  403a
admin-list-backups       401  403r 403r 403r 403r 200  200  200  200
admin-backup-window      401  403r 403r 403r 403r 200  200  200  200
admin-create-backup      401  403r 403r 403r 403r 202  403a 202  403a
admin-backup-verify      401  403r 403r 403r 403r 202  403a 202  403a
admin-backup-test-restore 401 403r 403r 403r 403r 202  403a 202  403a
`

func TestAuthorizationMatrix(t *testing.T) { //nolint:tparallel // hundreds of scenes in one database
	t.Parallel()
	w := newWorld(t, patient)
	for i := range 2 { // so that no administrator of a cell is the last one
		w.actor(fmt.Sprintf("root%d", i), user.RoleAdmin, 2, false)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(matrix) {
		if cells := strings.Fields(line); len(cells) == len(columns)+1 && cells[0] != "operation" {
			rows[cells[0]] = cells[1:]
		}
	}
	for _, op := range w.described().ops {
		row, there := rows[op.ID]
		if !there {
			t.Errorf("%s (%s %s) is not in the matrix: say who may call it", op.ID, op.method, op.path)
			continue
		}
		delete(rows, op.ID)
		t.Run(op.ID, func(t *testing.T) {
			here := *w
			here.tb = t
			for i, column := range columns {
				here.cell(op, column, row[i])
			}
		})
	}
	for id := range rows {
		t.Errorf("%s is in the matrix, and nowhere else", id)
	}
}

// cell makes one call in a scene of its own.
func (w *world) cell(op operation, column, want string) {
	w.tb.Helper()
	s := w.scene(op, column)
	var tunes []tune
	if s.token != "" {
		tunes = append(tunes, as(s.token))
	}
	if op.ID == "patch-state" {
		tunes = append(tunes, withHeader("If-Match", "*"))
	}
	a := w.do(op.method, s.path, s.body, tunes...)
	have := fmt.Sprint(a.status)
	if a.status == 401 || a.status == 403 {
		switch code := a.json()["code"]; code {
		case "aal_required":
			have += "a"
		case "role_required":
			have += "r"
		case "topic_forbidden":
			have += "f"
		case "unauthenticated":
		default:
			have += fmt.Sprint(" ", code)
		}
	}
	if have != want {
		w.tb.Errorf("%s as %s: %s, want %s: %.300s", op.ID, column, have, want, a.body)
	}
}

type scene struct {
	token, path string
	body        any
}

var names atomic.Int64

// member is a new account with a second factor.
func (w *world) member(role user.Role) user.User {
	w.tb.Helper()
	ctx := w.tb.Context()
	name := fmt.Sprintf("member%d", names.Add(1))
	var u user.User
	must(w.tb, w.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
		u, err = w.users.Create(ctx, tx, user.New{Username: name, Email: name + "@example.org", PasswordHash: w.passwordHash(), Role: role})
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into user_mfa (user_id, method, is_enabled, confirmed_at) values ($1, 'totp', true, now())`, u.ID)
		return err
	}))
	return u
}

func (w *world) passwordHash() string {
	w.tb.Helper()
	hasher, err := user.NewHasher(user.HasherConfig{Cost: user.Argon2{MemoryKiB: 64, Time: 1, Parallelism: 1}})
	must(w.tb, err)
	hash, err := hasher.Hash(w.tb.Context(), password)
	must(w.tb, err)
	return hash
}

// scene sets up one call: its caller, what its path names, and a body that is fine.
func (w *world) scene(op operation, column string) scene {
	w.tb.Helper()
	ctx := w.tb.Context()
	owner := w.member(user.RoleUser)
	s := scene{}
	switch column {
	case "anonymous":
	case "AAL1":
		s.token = w.session(owner, 1, false).token
	case "AAL2 stale":
		s.token = w.session(owner, 2, true).token
	case "AAL2 fresh":
		s.token = w.session(owner, 2, false).token
	default:
		role, stale := strings.CutSuffix(column, " stale")
		s.token = w.session(w.member(user.Role(strings.TrimPrefix(role, "other "))), 2, stale).token
	}
	replace := []string{"id", owner.PublicID.String()}
	query := "?"
	switch {
	case strings.HasPrefix(op.path, "/v1/streams/"):
		id, viewer := w.liveStream(owner, op.ID)
		replace = []string{"id", id.String(), "viewer_id", viewer.String()}
	case strings.Contains(op.path, "/sessions/{id}"):
		replace[1] = w.session(owner, 1, false).id.String()
	case strings.Contains(op.path, "{factor_id}"):
		var id uuid.UUID
		must(w.tb, w.db.QueryRow(ctx, `select public_id from user_mfa where user_id = $1`, owner.ID).Scan(&id))
		replace = []string{"factor_id", id.String()}
	case strings.HasPrefix(op.path, "/v1/state/"):
		id, _ := w.liveStream(owner, op.ID)
		replace = []string{"type", "stream", "id", id.String()}
	case op.ID == "watch":
		id, _ := w.liveStream(owner, op.ID)
		query += "topics=stream." + id.String()
	case op.ID == "list-events":
		query += "aggregate_type=user&aggregate_id=" + owner.PublicID.String()
	case op.ID == "revoke-sessions":
		query += "scope=others"
	}
	s.path = strings.TrimSuffix(strings.Split(op.url(replace...), "?")[0]+query, "?")
	s.body = bodies(owner.Username, s.token)[op.ID]
	return s
}

// liveStream is a stream of the owner's, in the state that an operation needs.
func (w *world) liveStream(owner user.User, op string) (id, viewer uuid.UUID) {
	w.tb.Helper()
	ctx := w.tb.Context()
	store, private := w.streams, false
	account := stream.Account{ID: owner.ID, PublicID: owner.PublicID}
	made, err := store.Create(ctx, account, stream.Draft{Name: "s", IsPublic: &private})
	must(w.tb, err)
	if !slices.Contains([]string{"start-stream", "delete-stream"}, op) {
		_, err = store.Start(ctx, account, made.Stream.PublicID, stream.Stats{})
		must(w.tb, err)
		joined, err := store.Join(ctx, account, made.Stream.PublicID)
		must(w.tb, err)
		viewer = joined.ID
	}
	return made.Stream.PublicID, viewer
}

// bodies are what the operations take.
func bodies(login, token string) map[string]any {
	fresh := fmt.Sprintf("newcomer%d", names.Add(1))
	account := object{"username": fresh, "email": fresh + "@example.org", "password": password}
	return map[string]any{
		"validate-session": object{"token": token}, "validate-sessions": object{"tokens": []string{token}},
		"register": account, "admin-create-user": account,
		"setup":        object{"token": "sut_x", "username": fresh, "email": fresh + "@example.org", "password": password},
		"change-email": object{"email": fresh + "@example.org"}, "admin-set-email": object{"email": fresh + "@example.org"},
		"confirm-email": object{"token": "sut_x"}, "undo-email": object{"token": "sut_x"},
		"verify-email": object{"token": "sut_x"}, "request-recovery": object{"login": login},
		"confirm-recovery": object{"token": "sut_x", "password": password}, "login": object{"login": login, "password": password},
		"verify-mfa":     object{"challenge_id": "sch_x", "method": "totp", "code": "000000"},
		"reauthenticate": object{"password": password}, "update-me": object{"display_name": "A"},
		"change-password": object{"current_password": password, "new_password": "an entirely new password"},
		"rename-session":  object{"device_name": "tv"}, "confirm-totp": object{"code": "000000"}, "create-stream": object{"name": "s"},
		"update-stream": object{"name": "t"}, "stream-stats": object{"fps": 30},
		"add-recording":  object{"file_path": "a.mp4", "file_size_bytes": 1},
		"admin-set-role": object{"role": "operator"}, "patch-state": object{"scene": "lobby"},
		"admin-create-backup": object{"type": "full"},
	}
}
