package stream

import "rootstream/errs"

// Errors of streams. A stream that is somebody else's and not public is not found.
var (
	ErrNotFound       = errs.New(errs.NotFound, "stream_not_found", "no such stream")
	ErrAlreadyLive    = errs.New(errs.Conflict, "already_live", "the stream is live already")
	ErrNotLive        = errs.New(errs.Conflict, "not_live", "the stream is not live")
	ErrLive           = errs.New(errs.Conflict, "stream_live", "the stream is live: stop it first")
	ErrViewerNotFound = errs.New(errs.NotFound, "viewer_not_found", "no such viewer: it left, or was not renewed in time")
	ErrNoSession      = errs.New(errs.Conflict, "no_session", "the stream was never live, so there is nothing recorded")
	ErrSessionUnknown = errs.New(errs.NotFound, "stream_session_not_found", "no such session of this stream")
	ErrTooManyStreams = errs.New(errs.Conflict, "stream_limit", "the account has as many streams as it may have").WithHint("delete one first")
	ErrTooManyViewers = errs.New(errs.Conflict, "viewer_limit", "the account watches this stream as often as it may at once")
	errNoRedis        = errs.New(errs.Unavailable, "cache_unavailable", "viewers cannot be counted without Redis")
)
