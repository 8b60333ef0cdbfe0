package backup_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"rootstream/backup"
	"rootstream/backup/repo"
	"rootstream/secret"
)

// A repository is made once; then only its keys open it.
func ExampleOpen() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "repository-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // of an example
	cfg := backup.Config{
		Repo: "file://" + dir, Create: true, Logger: slog.New(slog.DiscardHandler),
		Keys: []repo.Key{{Kind: repo.KeyFile, Secret: secret.FromString(strings.Repeat("32 random bytes or more ", 2))}},
	}
	backups, err := backup.Open(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	list, err := backups.List(ctx)
	fmt.Println(len(list), "backups,", err)

	cfg.Create, cfg.Keys[0].Secret = false, secret.FromString(strings.Repeat("some other key ", 3))
	_, err = backup.Open(ctx, cfg)
	fmt.Println("with another key:", err != nil)
	// Output:
	// 0 backups, <nil>
	// with another key: true
}
