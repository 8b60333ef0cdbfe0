package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"

	"rootstream/errs"
	"rootstream/pgserver"
)

// Check is one look at this machine.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // what to do; empty when OK
}

// Checks looks at what the stack of cfg needs from this machine. It changes nothing, and may run beside the stack.
func Checks(ctx context.Context, cfg Config) []Check {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return []Check{failedCheck("configuration", err)}
	}
	l := layoutOf(cfg)
	checks := []Check{checkPostgres(cfg, l), checkRedis(cfg), checkFolder(l)} //nolint:contextcheck // looking at versions is bounded by itself
	holder := lockHolder(l.LockFile)
	checks = append(checks, checkLock(l, holder), checkPort(ctx, cfg, l), checkSpace(cfg))
	return checks
}

func checkPostgres(cfg Config, l Layout) Check {
	const name = "postgres_binaries"
	in, err := pgserver.Installation{}, error(nil)
	if cfg.PostgresBin != "" {
		in, err = pgserver.At(cfg.PostgresBin)
	} else {
		in, err = pgserver.FindFor(l.PostgresDir, pgserver.MinMajor)
	}
	if err != nil && !errors.Is(err, pgserver.ErrNotEmpty) && !errors.Is(err, pgserver.ErrAccess) {
		return failedCheck(name, err)
	}
	if in.BinDir == "" { // the folder's fault is told by its own check
		if in, err = pgserver.Find(pgserver.MinMajor); err != nil {
			return failedCheck(name, err)
		}
	}
	if in.Major < pgserver.MinMajor {
		return Check{
			Name: name, Detail: fmt.Sprintf("PostgreSQL %s in %s is older than %d", in.Version, in.BinDir, pgserver.MinMajor),
			Remedy: pgserver.InstallCommand(),
		}
	}
	return Check{Name: name, OK: true, Detail: "PostgreSQL " + in.Version + " in " + in.BinDir}
}

func checkRedis(cfg Config) Check {
	path, err := findRedis(cfg.RedisServer)
	if err != nil {
		return failedCheck("redis_binary", err)
	}
	version, _, err := redisVersionOf(path)
	if err != nil {
		return failedCheck("redis_binary", err)
	}
	return Check{Name: "redis_binary", OK: true, Detail: "Redis " + version + " in " + path}
}

func checkFolder(l Layout) Check {
	const name = "data_folder"
	info, err := os.Stat(l.DataDir)
	if errors.Is(err, os.ErrNotExist) {
		return Check{Name: name, OK: true, Detail: l.DataDir + " does not exist yet"}
	}
	if err == nil && !info.IsDir() {
		err = errors.New("it is not a folder")
	}
	if err == nil {
		err = l.checkOurs()
	}
	if err == nil {
		_, err = pgserver.DataVersion(l.PostgresDir)
		if errors.Is(err, pgserver.ErrNoData) {
			return Check{Name: name, OK: true, Detail: l.DataDir + " holds no database yet"}
		}
	}
	if err != nil {
		return failedCheck(name, fmt.Errorf("%s: %w", l.DataDir, err))
	}
	return Check{Name: name, OK: true, Detail: l.DataDir}
}

// checkLock fails when the lock is held by something that is not a running stack.
func checkLock(l Layout, holder string) Check {
	const name = "data_folder_lock"
	if holder == "" {
		return Check{Name: name, OK: true, Detail: "free"}
	}
	if _, running := l.recorded(nodeName); running {
		return Check{Name: name, OK: true, Detail: "held by " + holder}
	}
	return Check{
		Name: name, Detail: l.LockFile + " is held by " + holder + ", and no stack runs in this folder",
		Remedy: "stop that process, then run rootstream up again",
	}
}

// checkPort fails when somebody else than this folder's serve listens on the address.
func checkPort(ctx context.Context, cfg Config, l Layout) Check {
	const name = "http_port"
	_, err := checkListen(ctx, cfg.Listen)
	if err == nil {
		return Check{Name: name, OK: true, Detail: cfg.Listen + " is free"}
	}
	if id, running := l.recorded(serveName); running && portOwnerPID(cfg.Listen) == id.PID {
		return Check{Name: name, OK: true, Detail: fmt.Sprintf("%s is served by process %d of this folder", cfg.Listen, id.PID)}
	}
	return failedCheck(name, err)
}

func checkSpace(cfg Config) Check {
	free, size, err := diskSpace(cfg.DataDir)
	if err != nil {
		return failedCheck("disk_space", err)
	}
	return judgeSpace(cfg.DataDir, free, size, cfg.MinFree)
}

// CheckSpace looks at the disk that a folder is or will be on: it is to have least bytes free.
func CheckSpace(name, dir string, least uint64) Check {
	free, size, err := diskSpace(dir)
	c := Check{Name: name, OK: err == nil && free >= least, Detail: fmt.Sprintf("%s: %d MiB of %d MiB free", dir, free>>20, size>>20)}
	if err != nil {
		c.Detail = err.Error()
	}
	if !c.OK {
		c.Remedy = fmt.Sprintf("see that the disk of %s is there and has %d MiB free", dir, least>>20)
	}
	return c
}

// judgeSpace says whether what is free of a disk is enough: a share of it, which
// need not be more than plenty, and no less than least.
func judgeSpace(dir string, free, size, least uint64) Check {
	const name, percent, plenty = "disk_space", 10, 10 << 30
	c := Check{Name: name, OK: true, Detail: fmt.Sprintf("%d MiB of %d MiB free (%.0f %%)", free>>20, size>>20, 100*float64(free)/float64(max(size, 1)))}
	if wanted := max(least, min(size/100*percent, plenty)); free < wanted {
		c.OK, c.Remedy = false, "free some space on the disk of "+dir
		c.Detail += fmt.Sprintf(": less than %d MiB", wanted>>20)
	}
	return c
}

func failedCheck(name string, err error) Check {
	c := Check{Name: name, Detail: err.Error()}
	if e := errs.Of(err); e != nil {
		c.Remedy = e.Hint
	}
	return c
}
