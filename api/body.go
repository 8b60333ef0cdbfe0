package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"rootstream/api/strict"
)

const (
	maxBody      = 64 << 10  // bytes of a request's body
	maxBatchBody = 256 << 10 // holds 1000 tokens of the longest kind that is still common
	maxDrained   = 4 << 20   // of a body that is too large: who is still writing would not see the answer
)

// jsonFormat is JSON for huma. What comes in has passed strict.Check.
func jsonFormat() huma.Format {
	return huma.Format{
		Marshal: func(w io.Writer, v any) error {
			e := json.NewEncoder(w)
			e.SetEscapeHTML(false)
			return e.Encode(v)
		},
		Unmarshal: unmarshal,
	}
}

// unmarshal names the field that does not fit: what a schema lets pass may
// still be too large for what is kept.
func unmarshal(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && t.Field != "" {
		return errors.New(t.Field + fieldMark + "does not have the expected form or range")
	}
	return errors.New("does not have the expected form")
}

// readJSON reads a request's body, strictly. No body at all is for the operation to judge.
func readJSON(w http.ResponseWriter, r *http.Request, a access) (io.Reader, error) {
	ctx, limit := r.Context(), a.body
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, newProblem(ctx, http.StatusUnsupportedMediaType, "the body must not be compressed")
	}
	kind := r.Header.Get("Content-Type")
	if kind != "" && !isJSON(kind, a.patch) {
		return nil, newProblem(ctx, http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	body, err := readBody(r, limit)
	switch {
	case errors.Is(err, errTooLarge):
		_, _ = io.CopyN(io.Discard, r.Body, maxDrained)
		w.Header().Set("Connection", "close")
		return nil, newProblem(ctx, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limit))
	case err != nil:
		return nil, newProblem(ctx, http.StatusBadRequest, "the body could not be read")
	case len(body) == 0:
		return http.NoBody, nil
	case kind == "":
		return nil, newProblem(ctx, http.StatusUnsupportedMediaType, "the body must be application/json, and say so in Content-Type")
	}
	if err := strict.Check(body); err != nil {
		return nil, err
	}
	return bytes.NewReader(body), nil
}

var errTooLarge = errors.New("too large")

func readBody(r *http.Request, limit int) ([]byte, error) {
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	if r.ContentLength > int64(limit) {
		return nil, errTooLarge
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	if err == nil && len(body) > limit {
		return nil, errTooLarge
	}
	return body, err
}

// mergePatchType is RFC 7396.
const mergePatchType = "application/merge-patch+json"

// isJSON reports whether a content type is JSON, in UTF-8, or a merge patch where that is meant.
func isJSON(contentType string, patch bool) bool {
	media, params, err := mime.ParseMediaType(contentType)
	charset := params["charset"]
	return err == nil && (media == "application/json" || patch && media == mergePatchType) && (charset == "" || strings.EqualFold(charset, "utf-8"))
}
