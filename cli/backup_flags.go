package cli

import (
	"context"
	"maps"
	"path/filepath"

	"github.com/spf13/pflag"

	"rootstream/app/backups"
	"rootstream/app/config"
)

// repoFlags are the flags that name a repository of backups and the server they are of; each is also a setting.
type repoFlags struct {
	repo, key, passphrase, dsn, pgdata string
	endpoint, region                   string
	pathStyle                          bool
}

func (f *repoFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.repo, "repo", "", "repository: `URL` file:///folder or s3://bucket/prefix")
	flags.StringVar(&f.key, "key-file", "", "`file` with the repository's key")
	flags.StringVar(&f.passphrase, "passphrase-file", "", "`file` with the repository's passphrase, in place of a key")
	flags.StringVar(&f.dsn, "dsn", "", "address of the server to back up (`DSN`), as a role that may take backups")
	flags.StringVar(&f.pgdata, "pgdata", "", "data `folder` of that server, if it is on this machine; without, it sends its files")
	flags.StringVar(&f.endpoint, "s3-endpoint", "", "`URL` of the service behind s3://")
	flags.StringVar(&f.region, "s3-region", "", "`region` of the bucket")
	flags.BoolVar(&f.pathStyle, "s3-path-style", false, "put the bucket's name into the path")
}

// settings are the flags that were given, by key of the configuration.
func (f *repoFlags) settings() map[string]string {
	s := map[string]string{
		"backup.repo": f.repo, "backup.key_file": f.key, "backup.passphrase_file": f.passphrase, "backup.dsn": f.dsn, "backup.pgdata": f.pgdata,
		"backup.s3.endpoint": f.endpoint, "backup.s3.region": f.region,
	}
	if f.pgdata != "" && !filepath.IsAbs(f.pgdata) {
		if abs, err := filepath.Abs(f.pgdata); err == nil {
			s["backup.pgdata"] = abs
		}
	}
	if f.pathStyle {
		s["backup.s3.path_style"] = "true"
	}
	return s
}

// config resolves the configuration of a command that works with backups; more are its own flags by key.
func (f *repoFlags) config(env *environment, more map[string]string) (config.Config, error) {
	cfg, err := f.service(env, more)
	if cfg.Log.Level == "info" {
		cfg.Log.Level = "warn" // a command's own output says what it did
	}
	return cfg, err
}

// service is the configuration of a command that runs until it is stopped: its log is its output.
func (f *repoFlags) service(env *environment, more map[string]string) (config.Config, error) {
	settings := f.settings()
	maps.Copy(settings, more)
	return backups.Find(env.source(settings), env.dataDir)
}

// with opens the repository, runs fn and closes it.
func (f *repoFlags) with(ctx context.Context, env *environment, fn func(b *backups.Operator) error) error {
	cfg, err := f.config(env, nil)
	if err != nil {
		return err
	}
	b, err := backups.Open(ctx, cfg, backups.Options{Stderr: env.stderr})
	if err != nil {
		return err
	}
	defer b.Close()
	return fn(b)
}
