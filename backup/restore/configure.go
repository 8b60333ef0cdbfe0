package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"rootstream/backup/repo"
	"rootstream/backup/restore/recovery"
)

// needed are the folders without which no server starts.
func needed() []string {
	return []string{
		"base", "global", "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_logical/mappings", "pg_logical/snapshots", "pg_multixact",
		"pg_multixact/members", "pg_multixact/offsets", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp",
		"pg_subtrans", "pg_tblspc", "pg_twophase", "pg_wal", "pg_wal/archive_status", "pg_xact",
	}
}

// configure writes what makes a server recover from the backup, instead of believing that it crashed. The map of
// tablespaces is not among it: their links are made already, and the map would lead them back to where they were.
func (j *Job) configure() error {
	for _, name := range needed() {
		if err := j.tree.mkdir(name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.Config.Configuration)) {
		if err := j.tree.put(name, j.Config.Configuration[name]); err != nil {
			return err
		}
	}
	auto, err := j.tree.read(recovery.AutoConf)
	if err != nil {
		return err
	}
	main, err := j.tree.read(recovery.MainConf)
	if err != nil {
		return err
	}
	conf := recovery.Settings{
		Target: j.Choice.Target, Timeline: j.Choice.Timeline, Hole: j.Choice.Hole, Major: j.Manifest.Cluster.Major, Command: j.Config.RestoreCommand,
		Least: j.Manifest.Settings, Other: j.Config.Settings,
	}
	if err := j.tree.put(recovery.AutoConf, conf.Write(auto, main)); err != nil {
		return err
	}
	if len(j.Manifest.Label) == 0 {
		return repo.ErrDamaged.WithCause(errors.New("the backup has no label"))
	}
	if err := j.tree.put("backup_label", j.Manifest.Label); err != nil {
		return err
	}
	return j.tree.put("recovery.signal", nil)
}

const maxConf = 16 << 20

// read returns a small file of the data folder, nothing if it is missing or a link.
func (t *tree) read(name string) ([]byte, error) {
	if info, err := t.data.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return nil, nil // a link to a file of the machine is the machine's business
	}
	f, err := t.data.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err == nil && len(raw) > maxConf {
		err = fmt.Errorf("%s has more than %d bytes", name, maxConf)
	}
	return raw, errors.Join(err, f.Close())
}
