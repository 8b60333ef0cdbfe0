package secret

import (
	"time"

	"rootstream/errs"
)

// Errors of master keys, keysets and sealed values.
var (
	ErrKeysetMissing = errs.New(errs.Unavailable, "keyset_missing", "there is no master key, so sealed values cannot be used").
				WithHint("create a master key file (at least 32 random bytes, mode 0600) and name it as the master key file in the configuration")
	ErrWrongMasterKey = errs.New(errs.Forbidden, "wrong_master_key", "the master key does not open the keyset in this database").
				WithHint("use the master key file that this database was first started with; a new one cannot open what the old one sealed")
	ErrKeysetDamaged = errs.New(errs.Internal, "keyset_damaged", "the keyset in the database was altered or damaged").
				WithHint("restore the table keysets from a backup")
	ErrKeysetStale = errs.New(errs.Unavailable, "keyset_stale", "the value was sealed with a key this process has not seen yet").
			WithRetryAfter(time.Second)
	ErrNotOpened = errs.New(errs.Internal, "seal_broken", "a sealed value does not open: it was altered, or it belongs elsewhere")
	ErrBadAD     = errs.New(errs.Internal, "seal_place", "a sealed value needs a table and a column, and no part of its place may hold a colon")

	ErrMasterKeyMissing = errs.New(errs.NotFound, "master_key_missing", "there is no master key file")
	ErrMasterKeyExists  = errs.New(errs.Conflict, "master_key_exists", "the master key file exists already")
	ErrMasterKeyShort   = errs.New(errs.Invalid, "master_key_short", "the master key is shorter than 32 bytes")
	ErrMasterKeyOpen    = errs.New(errs.Forbidden, "master_key_exposed", "the master key file can be read by others")
	ErrMasterKeyFile    = errs.New(errs.Invalid, "master_key_file", "the master key file cannot be used")

	ErrPrinted = errs.New(errs.Invalid, "secret_redacted", "a redacted secret cannot be read back")
	ErrStored  = errs.New(errs.Internal, "secret_stored", "a secret is not stored in the clear: seal it")
)
