package s3_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/backup/storage"
	"rootstream/backup/storage/s3"
	"rootstream/backup/storage/storagetest"
	"rootstream/secret"
)

func config(address string) s3.Config {
	return s3.Config{
		Bucket: storagetest.Bucket, Endpoint: "http://" + address, PathStyle: true,
		AccessKey: storagetest.AccessKey, SecretKey: secret.FromString(storagetest.SecretKey),
		Stall: 3 * time.Second, Patience: 20 * time.Second,
	}
}

func open(t *testing.T, cfg s3.Config) *s3.Storage {
	t.Helper()
	st, err := s3.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func TestABucketKeepsTheContractOfStorages(t *testing.T) {
	t.Parallel()
	address, _ := storagetest.S3(t)
	var n atomic.Int64
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		t.Helper()
		cfg := config(address)
		cfg.Prefix = fmt.Sprintf("/part/%d/", n.Add(1))
		return open(t, cfg)
	})
}
