package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rootstream/session"
	"rootstream/stream"
)

// createdStream is a stream with its key, which is shown this once.
type createdStream struct {
	stream.Stream
	Key string `json:"stream_key" doc:"Shown this once."`
}

type streamKey struct {
	Key string `json:"stream_key" doc:"Shown this once; the one before it stops working."`
}

type createStreamInput struct {
	Body struct {
		Name         string `json:"name" maxLength:"1020" example:"Friday night"`
		Description  string `json:"description,omitempty" maxLength:"16000"`
		URL          string `json:"stream_url,omitempty" maxLength:"512"`
		ThumbnailURL string `json:"thumbnail_url,omitempty" maxLength:"512"`
		Codec        string `json:"codec,omitempty" maxLength:"50"`
		IsPublic     *bool  `json:"is_public,omitempty" doc:"Whether anybody signed in may see it; true if absent."`
	}
}

type updateStreamInput struct {
	PathID
	Body struct {
		Name         *string `json:"name,omitempty" maxLength:"1020"`
		Description  *string `json:"description,omitempty" maxLength:"16000"`
		URL          *string `json:"stream_url,omitempty" maxLength:"512"`
		ThumbnailURL *string `json:"thumbnail_url,omitempty" maxLength:"512"`
		Codec        *string `json:"codec,omitempty" maxLength:"50"`
		IsPublic     *bool   `json:"is_public,omitempty"`
	}
}

type listStreamsInput struct {
	Paging
	Mine bool   `query:"mine" doc:"Only my own."`
	Live string `query:"live" enum:"true,false"`
}

// statsBody is what an encoder tells; an absent figure stays as it is.
type statsBody struct {
	BitrateKbps *int    `json:"bitrate_kbps,omitempty"`
	FPS         *int    `json:"fps,omitempty"`
	Resolution  *string `json:"resolution,omitempty" maxLength:"50" example:"1920x1080"`
	Codec       *string `json:"codec,omitempty" maxLength:"50"`
	BytesSent   *int64  `json:"bytes_sent,omitempty" doc:"Since the start; it never falls."`
}

type startInput struct {
	PathID
	Body *statsBody `required:"false"`
}

type statsInput struct {
	PathID
	Body statsBody
}

type streamPageInput struct {
	PathID
	Paging
}

type viewerInput struct {
	PathID
	Viewer uuid.UUID `path:"viewer_id" format:"uuid"`
}

type recordingInput struct {
	PathID
	Body struct {
		SessionID       *uuid.UUID `json:"session_id,omitempty" format:"uuid" doc:"The time it was live; the newest if absent."`
		Path            string     `json:"file_path" maxLength:"512" doc:"Below the place where recordings are kept."`
		SizeBytes       int64      `json:"file_size_bytes"`
		DurationSeconds *int       `json:"duration_seconds,omitempty"`
		Codec           string     `json:"codec,omitempty" maxLength:"50"`
		Resolution      string     `json:"resolution,omitempty" maxLength:"50"`
		FPS             *int       `json:"fps,omitempty"`
		BitrateKbps     *int       `json:"bitrate_kbps,omitempty"`
		ExpiresAt       *time.Time `json:"expires_at,omitempty"`
	}
}

func streamAccount(ctx context.Context) stream.Account {
	p := caller(ctx)
	return stream.Account{ID: p.DBUserID, PublicID: p.UserID, Operator: p.Role >= session.RoleOperator}
}

const freshForOthers = "Operators may do it to anybody's stream, with a fresh proof of identity: see reauthenticate."

func (s *Server) streamRoutes() {
	tags := []string{"streams"}
	handle(s, huma.Operation{
		OperationID: "create-stream", Method: http.MethodPost, Path: "/v1/streams", DefaultStatus: http.StatusCreated, Tags: tags,
		Summary: "Create a stream", Errors: []int{http.StatusConflict},
	}, anyUser, func(ctx context.Context, in *createStreamInput) (*output[createdStream], error) {
		c, err := s.deps.Streams.Create(ctx, streamAccount(ctx), stream.Draft(in.Body))
		return reply(createdStream{c.Stream, c.Key.Reveal()}, err)
	})
	handle(s, huma.Operation{
		OperationID: "list-streams", Method: http.MethodGet, Path: "/v1/streams", Tags: tags,
		Summary: "Public streams and my own, newest first",
	}, anyUser, func(ctx context.Context, in *listStreamsInput) (*output[stream.Page[stream.Stream]], error) {
		return reply(s.deps.Streams.Streams(ctx, streamAccount(ctx), stream.Filter{List: stream.List{Limit: in.Limit, Cursor: in.Cursor}, Mine: in.Mine, Live: yesNo(in.Live)}))
	})
	handle(s, streamOp(tags, "get-stream", http.MethodGet, "", "One stream"),
		anyUser, func(ctx context.Context, in *PathID) (*output[stream.Stream], error) {
			return reply(s.deps.Streams.ByPublicID(ctx, streamAccount(ctx), in.ID))
		})
	handle(s, streamOp(tags, "update-stream", http.MethodPatch, "", "Change one of my streams"),
		anyUser, func(ctx context.Context, in *updateStreamInput) (*output[stream.Stream], error) {
			return reply(s.deps.Streams.Update(ctx, streamAccount(ctx), in.ID, stream.Patch(in.Body)))
		})
	remove := streamOp(tags, "delete-stream", http.MethodDelete, "", "Delete one of my streams with its recordings' records")
	remove.DefaultStatus, remove.Description = http.StatusNoContent, freshForOthers
	handle(s, remove, anyUser, func(ctx context.Context, in *PathID) (*empty, error) {
		if err := s.freshUnlessOwn(ctx, in.ID); err != nil {
			return nil, err
		}
		return nothing(s.deps.Streams.Delete(ctx, streamAccount(ctx), in.ID))
	})
	rotate := streamOp(tags, "rotate-stream-key", http.MethodPost, "/key", "Replace the stream key")
	rotate.Description = freshForOthers
	handle(s, rotate,
		anyUser, func(ctx context.Context, in *PathID) (*output[streamKey], error) {
			if err := s.freshUnlessOwn(ctx, in.ID); err != nil {
				return nil, err
			}
			key, err := s.deps.Streams.RotateKey(ctx, streamAccount(ctx), in.ID)
			return reply(streamKey{key.Reveal()}, err)
		})
	s.liveRoutes(tags)
	s.viewerRoutes(tags)
}

// freshUnlessOwn asks operators for a fresh proof before they take over or
// delete what is somebody else's. All others the store refuses.
func (s *Server) freshUnlessOwn(ctx context.Context, id uuid.UUID) error {
	p := caller(ctx)
	if p.Role < session.RoleOperator {
		return nil
	}
	owner, err := s.deps.Streams.Owner(ctx, id)
	if err != nil || owner == p.UserID {
		return err
	}
	return s.deps.Auth.RequireFresh(ctx, p)
}

// streamOp is an operation on one stream.
func streamOp(tags []string, id, method, below, summary string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: "/v1/streams/{id}" + below, Tags: tags, Summary: summary,
		Errors: []int{http.StatusNotFound, http.StatusConflict},
	}
}

func (s *Server) liveRoutes(tags []string) {
	handle(s, streamOp(tags, "start-stream", http.MethodPost, "/start", "Go live"),
		anyUser, func(ctx context.Context, in *startInput) (*output[stream.Session], error) {
			var first stream.Stats
			if in.Body != nil {
				first = stream.Stats(*in.Body)
			}
			return reply(s.deps.Streams.Start(ctx, streamAccount(ctx), in.ID, first))
		})
	handle(s, streamOp(tags, "stop-stream", http.MethodPost, "/stop", "Stop being live"),
		anyUser, func(ctx context.Context, in *PathID) (*output[stream.Session], error) {
			return reply(s.deps.Streams.Stop(ctx, streamAccount(ctx), in.ID))
		})
	handle(s, streamOp(tags, "stream-stats", http.MethodPut, "/stats", "Report bitrate, frame rate and bytes"),
		anyUser, func(ctx context.Context, in *statsInput) (*output[stream.Stream], error) {
			return reply(s.deps.Streams.UpdateStats(ctx, streamAccount(ctx), in.ID, stream.Stats(in.Body)))
		})
	handle(s, streamOp(tags, "stream-sessions", http.MethodGet, "/sessions", "The times it was live, newest first"),
		anyUser, func(ctx context.Context, in *streamPageInput) (*output[stream.Page[stream.Session]], error) {
			return reply(s.deps.Streams.Sessions(ctx, streamAccount(ctx), in.ID, stream.List{Limit: in.Limit, Cursor: in.Cursor}))
		})
	handle(s, streamOp(tags, "list-recordings", http.MethodGet, "/recordings", "Recordings, newest first"),
		anyUser, func(ctx context.Context, in *streamPageInput) (*output[stream.Page[stream.Recording]], error) {
			return reply(s.deps.Streams.Recordings(ctx, streamAccount(ctx), in.ID, stream.List{Limit: in.Limit, Cursor: in.Cursor}))
		})
	handle(s, huma.Operation{
		OperationID: "list-usage", Method: http.MethodGet, Path: "/v1/users/me/usage", Tags: tags,
		Summary: "What I have streamed: starts, ends, viewers and bytes, newest first",
	}, anyUser, func(ctx context.Context, in *Paging) (*output[stream.Page[stream.Usage]], error) {
		return reply(s.deps.Streams.Usage(ctx, streamAccount(ctx), stream.List{Limit: in.Limit, Cursor: in.Cursor}))
	})
	add := streamOp(tags, "add-recording", http.MethodPost, "/recordings", "Put a recording on record")
	add.DefaultStatus = http.StatusCreated
	handle(s, add, anyUser, func(ctx context.Context, in *recordingInput) (*output[stream.Recording], error) {
		return reply(s.deps.Streams.AddRecording(ctx, streamAccount(ctx), in.ID, stream.File(in.Body)))
	})
}

func (s *Server) viewerRoutes(tags []string) {
	join := streamOp(tags, "join-stream", http.MethodPost, "/viewers", "Begin to watch")
	join.DefaultStatus, join.Description = http.StatusCreated, "Counts as a viewer for expires_in seconds; renew before that."
	handle(s, join, anyUser, func(ctx context.Context, in *PathID) (*output[stream.Viewer], error) {
		return reply(s.deps.Streams.Join(ctx, streamAccount(ctx), in.ID))
	})
	handle(s, streamOp(tags, "count-viewers", http.MethodGet, "/viewers", "Viewers now, at the peak and in total"),
		anyUser, func(ctx context.Context, in *PathID) (*output[stream.Figures], error) {
			return reply(s.deps.Streams.Viewers(ctx, streamAccount(ctx), in.ID))
		})
	handle(s, streamOp(tags, "renew-viewer", http.MethodPut, "/viewers/{viewer_id}", "Go on watching"),
		anyUser, func(ctx context.Context, in *viewerInput) (*output[stream.Viewer], error) {
			return reply(s.deps.Streams.Renew(ctx, streamAccount(ctx), in.ID, in.Viewer))
		})
	leave := streamOp(tags, "leave-stream", http.MethodDelete, "/viewers/{viewer_id}", "Stop watching")
	leave.DefaultStatus = http.StatusNoContent
	handle(s, leave, anyUser, func(ctx context.Context, in *viewerInput) (*empty, error) {
		return nothing(s.deps.Streams.Leave(ctx, streamAccount(ctx), in.ID, in.Viewer))
	})
}
