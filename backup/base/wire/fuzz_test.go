package wire_test

import (
	"archive/tar"
	"bytes"
	"testing"

	"rootstream/backup/base/wire"
)

// What a server sends ends in an error, since its last result is missing, and never in a panic.
func FuzzArchive(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"backup_label", "base/", "base/1/1259", "global/pg_control"} {
		h := &tar.Header{Name: name, Mode: 0o600, Size: 5}
		if name == "base/" {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			f.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("12345"))
		}
	}
	_ = w.Close()
	f.Add(b.Bytes(), uint16(512))
	f.Add([]byte("short"), uint16(1))
	f.Fuzz(func(t *testing.T, raw []byte, cut uint16) {
		raw = raw[:min(len(raw), 16<<10)] // in pieces of a byte, more would only be slow
		messages := [][]byte{[]byte("nbase.tar\x00\x00")}
		for size := int(cut) + 1; len(raw) > 0; {
			n := min(size, len(raw))
			messages, raw = append(messages, append([]byte{'d'}, raw[:n]...)), raw[n:]
		}
		if n, err := wire.Walk(messages); err == nil {
			t.Errorf("%d entries, and no error", n)
		}
		_, _ = wire.Walk(append(messages, []byte{'m'}, []byte(`d{"Files": []}`)))
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "backup_label", "Size": 0, "Last-Modified": "2026-11-28 07:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" },
{ "Encoded-Path": "ff", "Size": 0, "Last-Modified": "2026-11-28 07:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
],
"Manifest-Checksum": "6c6dd81dbd1ac7f1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1"}
`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := wire.Compare(text, "backup_label", "\xff"); err == nil && (!bytes.Contains(text, []byte("backup_label")) || !bytes.ContainsAny(text, "fF")) {
			t.Error("files were not listed, and nothing was said")
		}
	})
}
