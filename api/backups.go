package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"rootstream/backup"
	"rootstream/errs"
)

// Backups lists backups and lets them be taken; see backup.Manager.
type Backups interface {
	List(ctx context.Context) ([]backup.Backup, error)
	Windows(ctx context.Context) ([]backup.Window, error)
	RunNow(ctx context.Context, kind, by string) error
}

var errNoBackups = errs.New(errs.Unavailable, "backups_missing", "no repository of backups is configured here")

type backupCreateInput struct {
	Body struct {
		Type string `json:"type" enum:"full,differential,incremental,logical"`
	}
}

type backupWindow struct {
	Windows []backup.Window `json:"windows" doc:"What the cluster can be restored to, oldest first; log is missing between two of them."`
	Gaps    []backup.Gap    `json:"gaps" doc:"What is missing."`
}

type backupAsked struct {
	Asked string `json:"asked" doc:"What runs as soon as the process that runs the schedule looks, within seconds."`
}

func (s *Server) backupRoutes() {
	tags := []string{"administration"}
	handle(s, huma.Operation{
		OperationID: "admin-list-backups", Method: http.MethodGet, Path: "/v1/admin/backups", Tags: tags,
		Summary: "List backups, newest first",
	}, anyOperator, func(ctx context.Context, _ *struct{}) (*output[list[backup.Backup]], error) {
		if s.deps.Backups == nil {
			return nil, errNoBackups
		}
		all, err := s.deps.Backups.List(ctx)
		return reply(list[backup.Backup]{Items: all}, err)
	})
	handle(s, huma.Operation{
		OperationID: "admin-backup-window", Method: http.MethodGet, Path: "/v1/admin/backups/window", Tags: tags,
		Summary: "To what times the cluster can be restored",
	}, anyOperator, func(ctx context.Context, _ *struct{}) (*output[backupWindow], error) {
		if s.deps.Backups == nil {
			return nil, errNoBackups
		}
		windows, err := s.deps.Backups.Windows(ctx)
		return reply(backupWindow{windows, backup.GapsOf(windows)}, err)
	})
	handle(s, huma.Operation{
		OperationID: "admin-create-backup", Method: http.MethodPost, Path: "/v1/admin/backups", DefaultStatus: http.StatusAccepted, Tags: tags,
		Summary: "Let a backup be taken now",
	}, operating, func(ctx context.Context, in *backupCreateInput) (*output[backupAsked], error) {
		return s.askFor(ctx, in.Body.Type)
	})
	for _, kind := range []string{"verify", "test-restore"} {
		handle(s, huma.Operation{
			OperationID: "admin-backup-" + kind, Method: http.MethodPost, Path: "/v1/admin/backups/" + kind, DefaultStatus: http.StatusAccepted, Tags: tags,
			Summary: "Let the backups be checked now: " + kind,
		}, operating, func(ctx context.Context, _ *struct{}) (*output[backupAsked], error) {
			return s.askFor(ctx, kind)
		})
	}
}

// askFor lets something run by whichever process runs the schedule.
func (s *Server) askFor(ctx context.Context, kind string) (*output[backupAsked], error) {
	if s.deps.Backups == nil {
		return nil, errNoBackups
	}
	return reply(backupAsked{kind}, s.deps.Backups.RunNow(ctx, kind, caller(ctx).UserID.String()))
}
