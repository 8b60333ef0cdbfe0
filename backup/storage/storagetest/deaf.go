package storagetest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// deaf is a service that knows nothing of some conditions of writes, as older ones do: the S3 server behind it is asked
// to write without them.
type deaf struct {
	next    http.Handler
	behind  *minio.Client
	headers []string
}

// Deaf returns the address of a service that passes requests on to the S3 server at address, but does not know these headers.
// It ends with the test.
func Deaf(tb testing.TB, address string, headers ...string) string {
	tb.Helper()
	client, err := minio.New(address, &minio.Options{
		Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		tb.Fatal(err)
	}
	d := &deaf{behind: client, headers: headers, next: passOn(address)}
	server := httptest.NewServer(d)
	tb.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func (d *deaf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	heard := true
	for _, h := range d.headers {
		heard = heard && r.Header.Get(h) == ""
	}
	if heard {
		d.next.ServeHTTP(w, r)
		return
	}
	body, err := content(r)
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	var info minio.UploadInfo
	if err == nil {
		info, err = d.behind.PutObject(r.Context(), bucket, key, bytes.NewReader(body), int64(len(body)), minio.PutObjectOptions{DisableMultipart: true})
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("ETag", `"`+info.ETag+`"`)
}

// content reads a body, also one that is signed in chunks (aws-chunked).
func content(r *http.Request) ([]byte, error) {
	if !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return io.ReadAll(r.Body)
	}
	var body []byte
	in := bufio.NewReader(r.Body)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		var n int
		if _, err = fmt.Sscanf(line, "%x;", &n); err != nil || n == 0 {
			return body, err
		}
		chunk := make([]byte, n+len("\r\n"))
		if _, err = io.ReadFull(in, chunk); err != nil {
			return nil, err
		}
		body = append(body, chunk[:n]...)
	}
}
