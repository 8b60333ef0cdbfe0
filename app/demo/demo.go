// Package demo walks through the life of an account and a stream on a running
// server, by its HTTP API alone.
package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"strings"
	"time"

	"rootstream/app/config"
	"rootstream/errs"
	"rootstream/mfa"
)

// ErrFailed is a step of the demo that did not go as it must.
var ErrFailed = errs.New(errs.Internal, "demo_failed", "a step failed")

const (
	patience = 2 * time.Minute // how long one step may take, on a machine however slow
	leaving  = 5 * time.Second // how long somebody who has pressed Ctrl-C may be kept
)

// Step is one request of the demo and what came of it.
type Step struct {
	What   string  `json:"step"`
	Method string  `json:"method"`
	Path   string  `json:"path"` // with {id} for ids
	Status int     `json:"status"`
	OK     bool    `json:"ok"`
	Took   float64 `json:"milliseconds"`
}

// Run walks through the whole life of an account and a stream on a running
// server and reports every step as it is done. It ends at the first that fails.
// second is the configuration of the same system, to start another instance of
// it for a moment; nil if it is not known, then the server watches itself.
func Run(ctx context.Context, url string, second *config.Config, report func(Step) error) error {
	if u, err := neturl.Parse(url); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errs.NewInvalid("url", "must be like http://127.0.0.1:8080")
	}
	d := &demo{ctx: ctx, url: strings.TrimRight(url, "/"), second: second, report: report, http: &http.Client{Timeout: patience}}
	for _, part := range []func() error{d.account, d.session, d.secondFactor, d.streaming, d.instances, d.goodbye} {
		if err := part(); err != nil {
			d.abandon()
			return err
		}
	}
	return nil
}

// abandon deletes the account of a walk that ended early, if its session may.
func (d *demo) abandon() {
	if d.token == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), leaving)
	defer cancel()
	d.ctx = ctx
	_, _, _ = d.call("DELETE", "/v1/users/me", nil)
}

type demo struct {
	ctx    context.Context //nolint:containedctx // one walk, one context
	url    string
	second *config.Config
	report func(Step) error
	http   *http.Client

	name, password, token, other string
	match                        string // If-Match of the next calls
	secret, factor               string
	codes                        []string
	stream                       string
}

type object = map[string]any

// step makes one call, expects a status and says what happened.
func (d *demo) step(what, method, path string, body any, want int) (object, error) {
	begun := time.Now()
	status, answer, err := d.call(method, path, body)
	took := time.Since(begun)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	s := Step{what, method, short(path), status, status == want, float64(took.Microseconds()) / 1000}
	if err := d.report(s); err != nil {
		return nil, err
	}
	if status != want {
		return nil, ErrFailed.WithCause(fmt.Errorf("%s: %s %s answered %d %v, not %d", what, method, path, status, answer["code"], want))
	}
	return answer, nil
}

// short replaces ids, which only make the line long.
func short(path string) string {
	path, _, _ = strings.Cut(path, "?")
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if len(p) == 36 && strings.Count(p, "-") == 4 {
			parts[i] = "{id}"
		}
	}
	return strings.Join(parts, "/")
}

func (d *demo) call(method, path string, body any) (int, object, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(d.ctx, method, d.url+path, in)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if d.token != "" {
		req.Header.Set("Authorization", "Bearer "+d.token)
	}
	if d.match != "" {
		req.Header.Set("If-Match", d.match)
	}
	resp, err := d.http.Do(req)
	if d.ctx.Err() != nil {
		return 0, nil, context.Cause(d.ctx)
	}
	if err != nil {
		return 0, nil, errs.New(errs.Unavailable, "unreachable", "nothing answers at "+d.url).WithCause(err).
			WithHint("start it with: rootstream up")
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil, err
	}
	answer := object{}
	if len(raw) > 0 && strings.Contains(resp.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(raw, &answer); err != nil {
			return 0, nil, fmt.Errorf("the answer is not JSON: %w", err)
		}
	}
	return resp.StatusCode, answer, nil
}

func (d *demo) account() (err error) {
	d.name = "demo-" + strings.ToLower(rand.Text()[:10])
	d.password = rand.Text()
	if _, err = d.step("is the server ready?", "GET", "/readyz", nil, 200); err != nil {
		return err
	}
	if _, err = d.step("sign up as "+d.name, "POST", "/v1/users",
		object{"username": d.name, "email": d.name + "@example.org", "password": d.password}, 201); err != nil {
		return err
	}
	if _, err = d.step("the name is taken now", "POST", "/v1/users",
		object{"username": strings.ToUpper(d.name), "email": "x" + d.name + "@example.org", "password": d.password}, 409); err != nil {
		return err
	}
	if _, err = d.step("a wrong password is refused", "POST", "/v1/auth/login",
		object{"login": d.name, "password": "not the password at all"}, 401); err != nil {
		return err
	}
	return d.signIn("sign in on a laptop", "demo laptop")
}

func (d *demo) signIn(what, device string) error {
	answer, err := d.step(what, "POST", "/v1/auth/login", object{"login": d.name, "password": d.password, "device_name": device}, 200)
	if err != nil {
		return err
	}
	token, ok := answer["token"].(string)
	if !ok {
		return ErrFailed.WithCause(errors.New("signing in gave no token"))
	}
	d.other, d.token = d.token, token
	return nil
}

func (d *demo) session() (err error) {
	if err = d.signIn("sign in on a phone as well", "demo phone"); err != nil {
		return err
	}
	for _, s := range []struct {
		what, method, path string
		body               any
	}{
		{"list the sessions", "GET", "/v1/sessions", nil},
		{"validate a token as another service would", "POST", "/v1/sessions/validate", object{"token": d.token}},
		{"validate it again, from memory", "POST", "/v1/sessions/validate", object{"token": d.token}},
		{"validate many at once", "POST", "/v1/sessions/validate-batch", object{"tokens": []string{d.token, d.other, "sst_garbage"}}},
	} {
		if _, err = d.step(s.what, s.method, s.path, s.body, 200); err != nil {
			return err
		}
	}
	answer, err := d.step("refresh: a new token for the same session", "POST", "/v1/auth/refresh", nil, 200)
	if err != nil {
		return err
	}
	d.token, _ = answer["token"].(string)
	if _, err = d.step("end all other sessions", "DELETE", "/v1/sessions?scope=others", nil, 204); err != nil {
		return err
	}
	answer, err = d.step("the laptop's token is refused", "POST", "/v1/sessions/validate", object{"token": d.other}, 200)
	if err == nil && answer["valid"] != false {
		err = ErrFailed.WithCause(errors.New("a revoked token still validates"))
	}
	return err
}

func (d *demo) secondFactor() error {
	answer, err := d.step("enrol an authenticator app", "POST", "/v1/mfa/totp", object{}, 201)
	if err != nil {
		return err
	}
	d.secret, _ = answer["secret"].(string)
	d.factor, _ = answer["factor_id"].(string)
	code, err := mfa.CodeAt(d.secret, time.Now())
	if err != nil {
		return err
	}
	answer, err = d.step("prove it with a code, get backup codes", "POST", "/v1/mfa/totp/"+d.factor+"/confirm", object{"code": code}, 200)
	if err != nil {
		return err
	}
	codes, _ := answer["backup_codes"].([]any)
	for _, c := range codes {
		text, _ := c.(string)
		d.codes = append(d.codes, text)
	}
	if len(d.codes) != 10 {
		return ErrFailed.WithCause(fmt.Errorf("%d backup codes, not 10", len(d.codes)))
	}
	answer, err = d.step("sign in again: the password alone is not enough", "POST", "/v1/auth/login",
		object{"login": d.name, "password": d.password}, 200)
	if err != nil {
		return err
	}
	challenge, _ := answer["challenge_id"].(string)
	if _, err = d.step("the code used above is refused", "POST", "/v1/auth/mfa/verify",
		object{"challenge_id": challenge, "method": "totp", "code": code}, 401); err != nil {
		return err
	}
	answer, err = d.step("a backup code lets us in", "POST", "/v1/auth/mfa/verify",
		object{"challenge_id": challenge, "method": "backup_code", "code": d.codes[0]}, 200)
	if err != nil {
		return err
	}
	d.token, _ = answer["token"].(string)
	return nil
}

func (d *demo) streaming() error {
	answer, err := d.step("create a stream", "POST", "/v1/streams", object{"name": "Demo stream"}, 201)
	if err != nil {
		return err
	}
	d.stream, _ = answer["id"].(string)
	path := "/v1/streams/" + d.stream
	if _, err = d.step("go live", "POST", path+"/start", nil, 200); err != nil {
		return err
	}
	if _, err = d.step("report bitrate and frame rate", "PUT", path+"/stats",
		object{"bitrate_kbps": 6000, "fps": 60, "resolution": "1920x1080"}, 200); err != nil {
		return err
	}
	answer, err = d.step("a viewer joins", "POST", path+"/viewers", nil, 201)
	if err != nil {
		return err
	}
	viewer, _ := answer["viewer_id"].(string)
	if _, err = d.step("the viewer renews", "PUT", path+"/viewers/"+viewer, nil, 200); err != nil {
		return err
	}
	if _, err = d.step("the viewer leaves", "DELETE", path+"/viewers/"+viewer, nil, 204); err != nil {
		return err
	}
	if _, err = d.step("stop", "POST", path+"/stop", nil, 200); err != nil {
		return err
	}
	_, err = d.step("the stream's history", "GET", "/v1/events?aggregate_type=stream&aggregate_id="+d.stream, nil, 200)
	return err
}

func (d *demo) goodbye() error {
	answer, err := d.step("the account's audit trail", "GET", "/v1/users/me/audit", nil, 200)
	if err != nil {
		return err
	}
	if items, _ := answer["items"].([]any); len(items) < 5 {
		return ErrFailed.WithCause(fmt.Errorf("the audit trail has %d entries", len(items)))
	}
	if _, err = d.step("delete the account and all it has", "DELETE", "/v1/users/me", nil, 204); err != nil {
		return err
	}
	_, err = d.step("its token is refused", "GET", "/v1/users/me", nil, 401)
	return err
}
