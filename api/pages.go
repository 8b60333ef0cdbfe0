package api

import (
	"context"
	"crypto/rand"
	_ "embed"
	"html/template"
	"mime"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"rootstream/auth"
	"rootstream/errs"
	"rootstream/user"
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML)) //nolint:gochecknoglobals // a constant

// page is one of the forms that links in mails and on the terminal lead to.
type page struct {
	Title, Path, Button       string
	WantsNames, WantsPassword bool

	Nonce, Token, Username, Email string
	MinLength                     int
	Faults                        []string
	Done                          string
}

type setupInput struct {
	Body struct {
		Token    string `json:"token" maxLength:"512" doc:"From the link that rootstream up printed."`
		Username string `json:"username" maxLength:"255"`
		Email    string `json:"email" maxLength:"255"`
		Password string `json:"password" maxLength:"1024"`
	}
}

// pageRoutes serves the forms; they need no other page and no sign-in.
func (s *Server) pageRoutes() {
	handle(s, huma.Operation{
		OperationID: "setup", Method: http.MethodPost, Path: "/v1/setup", DefaultStatus: http.StatusCreated, Tags: []string{"accounts"},
		Summary: "Create the first administrator", Description: "Takes the single-use token of the link that `rootstream up` prints; works while there is no administrator.",
		Errors: []int{http.StatusConflict, http.StatusGone},
	}, anybody, func(ctx context.Context, in *setupInput) (*output[user.User], error) {
		b := in.Body
		return reply(s.deps.Auth.BootstrapAdmin(ctx, b.Token, auth.Registration{Username: b.Username, Email: b.Email, Password: b.Password}, client(ctx)))
	})
	s.page(page{
		Title: "First administrator", Path: "/setup", Button: "Create the account", WantsNames: true, WantsPassword: true,
		Done: "The account is an administrator now. Sign in with it, then set up a second factor.",
	}, func(r *http.Request, p page) error {
		_, err := s.deps.Auth.BootstrapAdmin(r.Context(), p.Token,
			auth.Registration{Username: p.Username, Email: p.Email, Password: r.PostFormValue("password")}, client(r.Context()))
		return err
	})
	s.page(page{Title: "Verify your e-mail address", Path: "/verify", Button: "Verify", Done: "The address is verified."},
		func(r *http.Request, p page) error {
			return s.deps.Auth.VerifyEmail(r.Context(), p.Token, client(r.Context()))
		})
	s.page(page{Title: "Confirm your new e-mail address", Path: "/email/confirm", Button: "Confirm", Done: "The account has this address now."},
		func(r *http.Request, p page) error {
			return s.deps.Auth.ConfirmEmail(r.Context(), p.Token, client(r.Context()))
		})
	s.page(page{
		Title: "Undo the change of your e-mail address", Path: "/email/undo", Button: "Undo it",
		Done: "The account has its old address again, its sessions have ended, and its password is good no more. A link to set another one is on its way to that address.",
	}, func(r *http.Request, p page) error {
		return s.deps.Auth.UndoEmail(r.Context(), p.Token, client(r.Context()))
	})
	s.page(page{
		Title: "Set a new password", Path: "/recover", Button: "Set the password", WantsPassword: true,
		Done: "The password is set and every session has ended. Sign in with the new one.",
	}, func(r *http.Request, p page) error {
		return s.deps.Auth.ConfirmRecovery(r.Context(), p.Token, r.PostFormValue("password"), client(r.Context()))
	})
}

// page serves one form: GET shows it, POST does what it is for.
func (s *Server) page(form page, do func(*http.Request, page) error) {
	done := form.Done
	form.Done, form.MinLength = "", s.deps.MinPassword
	s.mux.HandleFunc("GET "+form.Path, func(w http.ResponseWriter, _ *http.Request) { s.show(w, http.StatusOK, form) })
	s.mux.HandleFunc("POST "+form.Path, func(w http.ResponseWriter, r *http.Request) {
		filled := form
		if status := readForm(w, r); status != 0 {
			filled.Faults = []string{"The form could not be read."}
			s.show(w, status, filled)
			return
		}
		filled.Token, filled.Username, filled.Email = r.PostFormValue("token"), r.PostFormValue("username"), r.PostFormValue("email")
		status := http.StatusOK
		if err := do(r, filled); err != nil {
			p := problemOf(r.Context(), s.log, err)
			filled.Faults, status = faultLines(p.Detail, p.Errors), p.Status
		} else {
			filled.Done = done
		}
		s.show(w, status, filled)
	})
}

// readForm parses a posted form; it returns a status if there is none.
func readForm(w http.ResponseWriter, r *http.Request) int {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return http.StatusUnsupportedMediaType
	}
	if r.ContentLength > maxBody {
		return http.StatusRequestEntityTooLarge
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return http.StatusBadRequest
	}
	return 0
}

func faultLines(detail string, faults []errs.Fault) []string {
	if len(faults) == 0 {
		return []string{detail}
	}
	lines := make([]string, 0, len(faults))
	for _, f := range faults {
		lines = append(lines, f.Field+" "+f.Message)
	}
	return lines
}

func (s *Server) show(w http.ResponseWriter, status int, p page) {
	p.Nonce = rand.Text()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+p.Nonce+"'; script-src 'nonce-"+p.Nonce+
		"'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	_ = pageTemplate.Execute(w, p) // a page that breaks off is shown as far as it came
}
