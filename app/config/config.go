// Package config is everything that can be set. [Load] reads it from defaults,
// a file, the environment and flags, and tells every fault at once; [Find] adds
// what a data folder of `rootstream up` knows; [Settings] describes it. What the
// parts need of it is said here too, such as [Redis.Client]; app builds them.
package config

import (
	"time"

	"rootstream/secret"
)

// Config is everything that can be set. Each part has a default that works
// with `rootstream up`; the doc tag is what docs/CONFIG.md and `config
// explain` show.
type Config struct {
	HTTP          HTTP           `yaml:"http"`
	Postgres      Postgres       `yaml:"postgres"`
	Redis         Redis          `yaml:"redis"`
	Keys          Keys           `yaml:"keys"`
	Auth          Auth           `yaml:"auth"`
	Session       Session        `yaml:"session"`
	MFA           MFA            `yaml:"mfa"`
	Streams       Streams        `yaml:"streams"`
	Sync          Sync           `yaml:"sync"`
	Backup        Backup         `yaml:"backup"`
	Mail          Mail           `yaml:"mail"`
	Webhooks      []Webhook      `yaml:"webhooks"`
	ServiceTokens []ServiceToken `yaml:"service_tokens"`
	Log           Log            `yaml:"log"`
}

// HTTP is how the API is served.
type HTTP struct {
	Listen         string        `yaml:"listen" default:"127.0.0.1:8080" doc:"Address and port the API listens on."`
	PublicURL      string        `yaml:"public_url" doc:"URL under which people reach the API; used in mailed links. Empty: made from listen."`
	TLSCert        string        `yaml:"tls_cert" doc:"File with the TLS certificate chain (PEM). Needed, with tls_key, to listen on other than loopback unless trusted_proxies is set."`
	TLSKey         string        `yaml:"tls_key" doc:"File with the TLS private key (PEM)."`
	TrustedProxies []string      `yaml:"trusted_proxies" doc:"Networks (CIDR) of proxies that end TLS; only their X-Forwarded-For and X-Forwarded-Proto are believed."`
	Timeout        time.Duration `yaml:"timeout" default:"15s" doc:"Longest time for one request."`
	ShutdownGrace  time.Duration `yaml:"shutdown_grace" default:"10s" doc:"How long requests in flight may finish when the process is asked to stop."`
}

// Postgres is the database.
type Postgres struct {
	DSN              secret.Secret `yaml:"dsn" doc:"Address of the database: postgres://user:password@host:5432/name."`
	MaxConns         int           `yaml:"max_conns" default:"20" doc:"Connections of the pool."`
	AcquireTimeout   time.Duration `yaml:"acquire_timeout" default:"5s" doc:"Longest wait for a free connection; after it the answer is 503."`
	StatementTimeout time.Duration `yaml:"statement_timeout" default:"30s" doc:"Longest time for one statement."`
	LegacyTimezone   string        `yaml:"legacy_timezone" doc:"Zone of the local times in a Phase 24.2 database that is being migrated. Empty: the database's own default."`
}

// Redis is the cache.
type Redis struct {
	URL              secret.Secret `yaml:"url" doc:"Address of Redis: redis://:password@host:6379/0 or rediss:// for TLS. Empty, with no other address: no cache, everything works from PostgreSQL."`
	SentinelMaster   string        `yaml:"sentinel_master" doc:"Name of the master, to find it through the Sentinels in sentinel_addrs; url then gives user and password."`
	SentinelAddrs    []string      `yaml:"sentinel_addrs" doc:"Addresses of all Sentinels."`
	SentinelPassword secret.Secret `yaml:"sentinel_password" doc:"Password of the Sentinels."`
	ClusterAddrs     []string      `yaml:"cluster_addrs" doc:"Addresses of some nodes of a Redis Cluster; url then gives user and password."`
	CommandTimeout   time.Duration `yaml:"command_timeout" default:"500ms" doc:"Longest time for one command."`
}

// Keys is the key that seals secrets at rest.
type Keys struct {
	MasterKeyFile string `yaml:"master_key_file" doc:"File with at least 32 bytes that wraps the data keys; readable by its owner only. Without it, features that need it answer 503 keyset_missing."`
}

// Auth is signing up and in.
type Auth struct {
	PasswordMinLength int           `yaml:"password_min_length" default:"15" doc:"Shortest password, in characters, where no second factor is enrolled; 8 where one is."`
	FactorRequired    bool          `yaml:"factor_required" default:"false" doc:"Every account must have a second factor: without one it may do nothing but set one up, and the last one stays. Passwords of 8 characters do then."`
	ChallengeTTL      time.Duration `yaml:"challenge_ttl" default:"5m" doc:"How long the second step of a sign-in may take."`
	FreshFor          time.Duration `yaml:"fresh_for" default:"15m" doc:"How recent a proof of identity must be for sensitive acts."`
	HashQueue         time.Duration `yaml:"hash_queue" default:"5s" doc:"Longest wait for a password to be checked; after it the answer is 503."`
	EmailChangeTTL    time.Duration `yaml:"email_change_ttl" default:"24h" doc:"How long a new e-mail address may be confirmed."`
	EmailUndoTTL      time.Duration `yaml:"email_undo_ttl" default:"72h" doc:"How long the old address can undo its change. Until then nobody else can have it, there is no further change, and the owner cannot delete the account."`
	SignInMail        bool          `yaml:"sign_in_mail" default:"true" doc:"Mail owners when somebody signs in to their account from a device that was not used before."`
	Rate              Rate          `yaml:"rate"`
}

// Rate limits authentication, in attempts a minute where nothing else is
// said. A client network is a /24 of IPv4 or a /64 of IPv6; all of a /56 get
// twice as many together, all of a /48 four times.
type Rate struct {
	LoginAccount    int           `yaml:"login_account" default:"120" doc:"Sign-ins to one account from one client network."`
	LoginAnywhere   int           `yaml:"login_anywhere" default:"300" doc:"Sign-ins to one account from everywhere but its known devices."`
	LoginNetwork    int           `yaml:"login_network" default:"600" doc:"Sign-ins from one client network."`
	RegisterNetwork int           `yaml:"register_network" default:"60" doc:"New accounts from one client network."`
	MFANetwork      int           `yaml:"mfa_network" default:"1200" doc:"Second-factor answers from one client network; the account's own budget of 5 in 15 minutes is fixed."`
	RefreshNetwork  int           `yaml:"refresh_network" default:"6000" doc:"Token refreshes from one client network."`
	TokenNetwork    int           `yaml:"token_network" default:"60" doc:"Uses of mailed tokens (verification, recovery, set-up) from one client network."`
	RecoveryNetwork int           `yaml:"recovery_network" default:"20" doc:"Recovery requests from one client network."`
	RecoveryAccount int           `yaml:"recovery_account" default:"4" doc:"Mails an hour of one kind that strangers can cause to one account; more are dropped silently. Of new sign-ins: from one client network."`
	ProofAccount    int           `yaml:"proof_account" default:"120" doc:"Proofs of identity and changes of factors in the sessions of one account."`
	Writes          int           `yaml:"writes" default:"6000" doc:"Other changes that one account may make through one instance."`
	ExportAccount   int           `yaml:"export_account" default:"10" doc:"Exports an hour that somebody gets of their own account."`
	FreeClient      int           `yaml:"free_client" default:"5" doc:"Failed sign-ins to one account from one client network, or one known device, before each further try must wait 2, 4, 8… seconds."`
	FreeAccount     int           `yaml:"free_account" default:"50" doc:"The same from everywhere but known devices."`
	MaxWait         time.Duration `yaml:"max_wait" default:"15m" doc:"The longest such wait."`
}

// Session is how long sessions live, and how many.
type Session struct {
	Limit         int             `yaml:"limit" default:"10" doc:"Live sessions of one user."`
	LimitPolicy   string          `yaml:"limit_policy" default:"evict_oldest" doc:"What a sign-in beyond the limit does: evict_oldest or deny."`
	MaxBlind      time.Duration   `yaml:"max_blind" default:"5s" doc:"How long an instance that cannot read revocations may go on accepting sessions. More keeps players signed in through an outage, and a revoked session alive as long."`
	NearCapacity  int             `yaml:"near_capacity" default:"262144" doc:"Sessions kept in the memory of one instance, rounded down to a power of two; 161 bytes each."`
	GeoIPFile     string          `yaml:"geoip_file" doc:"MaxMind-format .mmdb file that gives sessions a place. Empty: no places."`
	RetainExpired time.Duration   `yaml:"retain_expired" default:"720h" doc:"How long expired and revoked sessions are kept on record."`
	User          SessionLifetime `yaml:"user" default:"24h,24h"`
	Remembered    SessionLifetime `yaml:"remembered" default:"2160h,336h"`
	Creator       SessionLifetime `yaml:"creator" default:"12h,1h"`
	Admin         SessionLifetime `yaml:"admin" default:"8h,15m"`
}

// SessionLifetime is how long one class of sessions lives.
type SessionLifetime struct {
	Absolute time.Duration `yaml:"absolute" doc:"Longest life, whatever happens."`
	Idle     time.Duration `yaml:"idle" doc:"Longest time without use; at least 5m. As long as absolute: no such limit."`
}

// MFA is the second factor.
type MFA struct {
	Issuer string `yaml:"issuer" default:"RootStream" doc:"Name that authenticator apps show."`
	Strict bool   `yaml:"strict" default:"false" doc:"Accept only the current and the previous code, not the next."`
}

// Streams is how much one account may have of streams.
type Streams struct {
	PerAccount        int `yaml:"per_account" default:"1000" doc:"Streams of one account."`
	ViewersPerAccount int `yaml:"viewers_per_account" default:"200" doc:"Viewers of one stream that one account can be at once."`
}

// Sync is the state that all instances share.
type Sync struct {
	CacheMiB          int           `yaml:"cache_mib" default:"64" doc:"Memory for entities' state in one instance, in MiB."`
	SnapshotEvery     time.Duration `yaml:"snapshot_every" default:"0s" doc:"Time between snapshots of all state; 0s: only by command."`
	Watches           int           `yaml:"watches" default:"10000" doc:"Connections to /v1/watch on one instance; beyond them the answer is 503."`
	WatchesPerAccount int           `yaml:"watches_per_account" default:"50" doc:"The same of one account; beyond them the answer is 429."`
	Types             []SyncType    `yaml:"types"`
}

// SyncType is a type of state of your own, beside stream, user and session.
type SyncType struct {
	Name     string `yaml:"name" doc:"What it is called: lower-case letters, digits and _."`
	Class    string `yaml:"class" doc:"durable (default): in PostgreSQL before it is acknowledged. volatile: in memory and Redis, gone 30 s after it was last set."`
	Merge    string `yaml:"merge" doc:"Of durable: what becomes of a change that expected an older version: reject (default, 412), per_field, mine or theirs. Of volatile: what the instances' values amount to: latest (default), per_field, max or sum."`
	MaxBytes int    `yaml:"max_bytes" doc:"Largest document, in bytes of JSON. Not set: a little less than 64 KiB."`
	Write    string `yaml:"write" doc:"Least role that may change it: user, operator (default) or admin. Everybody signed in may read it."`
}

// Mail is how mail leaves.
type Mail struct {
	From     string        `yaml:"from" default:"rootstream@localhost" doc:"Sender of all mail."`
	Dir      string        `yaml:"dir" doc:"Folder that gets mail as .eml files instead of sending it."`
	SMTPHost string        `yaml:"smtp_host" doc:"SMTP server. Empty, with no dir: no mail is sent, it waits in the outbox."`
	SMTPPort int           `yaml:"smtp_port" default:"587" doc:"Port of the SMTP server."`
	SMTPUser string        `yaml:"smtp_user" doc:"User name at the SMTP server."`
	SMTPPass secret.Secret `yaml:"smtp_password" doc:"Password at the SMTP server."`
	SMTPTLS  string        `yaml:"smtp_tls" default:"mandatory" doc:"mandatory (STARTTLS), opportunistic, implicit or none."`
}

// Webhook is one receiver of signed events.
type Webhook struct {
	URL     string          `yaml:"url" doc:"Where to POST."`
	Secrets []secret.Secret `yaml:"secrets" doc:"Signing secrets, newest first; each signs while you change them. Make one with: echo whsec_$(openssl rand -base64 32)"`
	Topics  []string        `yaml:"topics" doc:"Names or patterns such as session.*; empty means all."`
}

// ServiceToken lets another service call validate and forward-auth.
type ServiceToken struct {
	Name  string        `yaml:"name" doc:"Shown in logs."`
	Token secret.Secret `yaml:"token" doc:"At least 32 characters; sent as a bearer token."`
}

// Log is what goes to standard error.
type Log struct {
	Level  string `yaml:"level" default:"info" doc:"debug, info, warn or error."`
	Format string `yaml:"format" default:"text" doc:"text or json."`
}
