package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/mfa"
)

// enrollment is shown once.
type enrollment struct {
	FactorID   uuid.UUID `json:"factor_id"`
	Secret     string    `json:"secret" doc:"Base 32, to type in."`
	OtpauthURI string    `json:"otpauth_uri"`
	QRSVG      string    `json:"qr_svg" doc:"The URI as a QR code, an SVG document."`
}

type backupCodes struct {
	BackupCodes []string `json:"backup_codes" doc:"Ten codes that work once each; shown this once."`
}

// PathFactor is the factor in a path.
type PathFactor struct {
	FactorID uuid.UUID `path:"factor_id" format:"uuid"`
}

type confirmInput struct {
	PathFactor
	Body struct {
		Code string `json:"code" maxLength:"64"`
	}
}

type enrollInput struct {
	Body *struct{} `required:"false"`
}

func (s *Server) factorRoutes() {
	tags := []string{"second factor"}
	fresh := "Adding or removing beside an enabled factor needs a second factor used within 15 minutes; the first one a password as fresh."
	handle(s, huma.Operation{OperationID: "mfa-status", Method: http.MethodGet, Path: "/v1/mfa", Tags: tags, Summary: "My second factors"},
		enrolling, func(ctx context.Context, _ *empty) (*output[mfa.Status], error) {
			return reply(s.deps.Factors.Status(ctx, caller(ctx).DBUserID))
		})
	handle(s, huma.Operation{OperationID: "mfa-attempts", Method: http.MethodGet, Path: "/v1/mfa/attempts", Tags: tags, Summary: "Codes that were tried on my account, newest first"},
		enrolling, func(ctx context.Context, in *Paging) (*output[list[mfa.Record]], error) {
			records, next, err := s.deps.Factors.Attempts(ctx, caller(ctx).DBUserID, in.Limit, in.Cursor)
			return reply(list[mfa.Record]{records, next}, err)
		})
	handle(s, huma.Operation{
		OperationID: "enroll-totp", Method: http.MethodPost, Path: "/v1/mfa/totp", DefaultStatus: http.StatusCreated, Tags: tags,
		Summary: "Begin to set up an authenticator app", Description: "It counts only once a code has confirmed it. " + fresh,
		Errors: []int{http.StatusConflict},
	}, enrolling, func(ctx context.Context, _ *enrollInput) (*output[enrollment], error) {
		e, err := s.deps.Auth.EnrollTOTP(ctx, caller(ctx), client(ctx))
		return reply(enrollment{e.FactorID, e.Secret.Reveal(), e.URI.Reveal(), e.QR.Reveal()}, err)
	})
	handle(s, huma.Operation{
		OperationID: "confirm-totp", Method: http.MethodPost, Path: "/v1/mfa/totp/{factor_id}/confirm", Tags: tags,
		Summary: "Prove the authenticator app with a code", Description: "The code counts as used. The session is not raised.",
		Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, enrolling, func(ctx context.Context, in *confirmInput) (*output[backupCodes], error) {
		codes, err := s.deps.Auth.ConfirmTOTP(ctx, caller(ctx), in.FactorID, in.Body.Code, client(ctx))
		return reply(backupCodes{codes}, err)
	})
	handle(s, huma.Operation{
		OperationID: "remove-totp", Method: http.MethodDelete, Path: "/v1/mfa/totp/{factor_id}", DefaultStatus: http.StatusNoContent, Tags: tags,
		Summary: "Remove an authenticator app", Description: fresh, Errors: []int{http.StatusNotFound},
	}, enrolling, func(ctx context.Context, in *PathFactor) (*empty, error) {
		return nothing(s.deps.Auth.RemoveTOTP(ctx, caller(ctx), in.FactorID, client(ctx)))
	})
	handle(s, huma.Operation{
		OperationID: "regenerate-backup-codes", Method: http.MethodPost, Path: "/v1/mfa/backup-codes", Tags: tags,
		Summary: "Replace my backup codes", Description: fresh,
	}, enrolling, func(ctx context.Context, _ *enrollInput) (*output[backupCodes], error) {
		codes, err := s.deps.Auth.RegenerateBackupCodes(ctx, caller(ctx), client(ctx))
		return reply(backupCodes{codes}, err)
	})
}
