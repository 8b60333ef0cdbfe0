package app

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"rootstream/api"
)

// OpenAPI writes the description of the API; it needs no running part.
func OpenAPI(w io.Writer) error {
	// Nothing is called while routes are registered, so parts without a database will do.
	p := &Parts{}
	raw, err := api.New(api.Deps{Auth: p.Auth}, api.Config{Version: "1", Metrics: http.NotFoundHandler()}).OpenAPI()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err = json.Indent(&out, raw, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(w)
	return err
}
