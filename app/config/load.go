package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"rootstream/errs"
)

// EnvPrefix begins the name of every variable that is a setting.
const EnvPrefix = "ROOTSTREAM_"

// maxSecretFile bounds what a …_FILE variable may point to.
const maxSecretFile = 64 << 10

// Source says where a configuration comes from, weakest first: defaults, the
// file, the environment, the flags.
type Source struct {
	Base  string            // a file weaker than File; "" means none
	File  string            // "" means none
	Env   []string          // NAME=value, as os.Environ gives them
	Flags map[string]string // by key, for example http.listen
}

// Load reads a configuration and returns every fault at once.
func Load(src Source) (Config, error) {
	l := loader{from: map[string]string{}}
	root := reflect.ValueOf(&l.cfg).Elem()
	l.defaults(root, "")
	for _, file := range []string{src.Base, src.File} {
		if file != "" {
			l.file(file, root)
		}
	}
	l.environment(src.Env, root)
	keys := make([]string, 0, len(src.Flags))
	for k := range src.Flags {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		l.setPath(root, k, src.Flags[k], "the flag for "+k)
	}
	var rules errs.Fields
	l.cfg.check(&rules)
	for _, f := range errs.FieldsOf(rules.Err()) {
		l.faults.Add(cmp.Or(l.from[f.Field], f.Field), f.Message) // say where the value was written
	}
	return l.cfg, l.faults.Err()
}

type loader struct {
	cfg    Config
	from   map[string]string // by key: where its value was written
	faults errs.Fields
}

// defaults fills every field from its default tag.
func (l *loader) defaults(v reflect.Value, inherited string) {
	parts := strings.Split(inherited, ",")
	for i := range v.NumField() {
		f, tag := v.Field(i), v.Type().Field(i).Tag.Get("default")
		switch {
		case f.Kind() == reflect.Struct && !isText(f):
			l.defaults(f, tag)
		case tag != "":
			l.set(f, tag, "default")
		case i < len(parts) && parts[i] != "":
			l.set(f, parts[i], "default")
		}
	}
}

// environment applies ROOTSTREAM_SECTION_KEY and, for secrets, ROOTSTREAM_SECTION_KEY_FILE.
func (l *loader) environment(env []string, root reflect.Value) {
	known := map[string]Setting{}
	for _, k := range Settings() {
		known[k.Env] = k
	}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, EnvPrefix) || name == EnvPrefix+"CONFIG" || name == EnvPrefix+"DATA" || name == EnvPrefix+"SOAK" {
			continue
		}
		if k, ok := known[name]; ok {
			if value == "" {
				continue // as good as not set
			}
			l.setPath(root, k.Path, value, name)
			continue
		}
		plain, isFile := strings.CutSuffix(name, "_FILE")
		k, ok := known[plain]
		switch {
		case !isFile || !ok || k.Type != "secret":
			l.faults.Add(name, "is not a setting: see rootstream config explain")
		case slices.ContainsFunc(env, func(p string) bool { return strings.HasPrefix(p, plain+"=") && p != plain+"=" }):
			l.faults.Add(name, "and "+plain+" are both set: keep one")
		default:
			content, err := ReadSmall(value, maxSecretFile)
			if err != nil {
				l.faults.Add(name, err.Error())
				continue
			}
			l.setPath(root, k.Path, strings.TrimSpace(content), name)
		}
	}
}

// ReadSmall reads a file that the operator names, up to most bytes.
func ReadSmall(name string, most int64) (string, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	if int64(len(b)) > most {
		return "", fmt.Errorf("is too large: at most %d bytes are read", most)
	}
	return string(b), nil
}

// setPath sets the field at a dotted path; lists are separated by commas.
func (l *loader) setPath(v reflect.Value, path, value, where string) {
	f, ok := fieldAt(v, path)
	if !ok {
		l.faults.Add(where, "is not a setting: see rootstream config explain")
		return
	}
	l.from[path] = where
	if f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.String {
		list := reflect.MakeSlice(f.Type(), 0, 4)
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = reflect.Append(list, reflect.ValueOf(item))
			}
		}
		f.Set(list)
		return
	}
	l.set(f, value, where)
}

// set parses one scalar into a field.
func (l *loader) set(f reflect.Value, value, where string) {
	if text, ok := reflect.TypeAssert[encoding.TextUnmarshaler](f.Addr()); ok {
		if err := text.UnmarshalText([]byte(value)); err != nil {
			l.faults.Add(where, err.Error())
		}
		return
	}
	switch f.Interface().(type) {
	case time.Duration:
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			l.faults.Add(where, "must be a time such as 30s, 15m or 24h")
			return
		}
		f.SetInt(int64(d))
	case string:
		f.SetString(value)
	case int:
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			l.faults.Add(where, "must be a whole number that is not negative")
			return
		}
		f.SetInt(int64(n))
	case bool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			l.faults.Add(where, "must be true or false")
			return
		}
		f.SetBool(b)
	default:
		l.faults.Add(where, "must be set in the configuration file")
	}
}

// fieldAt finds a field by its dotted yaml path.
func fieldAt(v reflect.Value, path string) (reflect.Value, bool) {
	name, rest, deeper := strings.Cut(path, ".")
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") != name {
			continue
		}
		f := v.Field(i)
		if !deeper {
			return f, true
		}
		if f.Kind() != reflect.Struct || isText(f) {
			return reflect.Value{}, false
		}
		return fieldAt(f, rest)
	}
	return reflect.Value{}, false
}

func isText(v reflect.Value) bool {
	_, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
	return ok
}

// check looks at what no type says.
func (c Config) check(f *errs.Fields) {
	for _, choice := range []struct {
		path, value string
		allowed     []string
	}{
		{"session.limit_policy", c.Session.LimitPolicy, []string{"evict_oldest", "deny"}},
		{"mail.smtp_tls", c.Mail.SMTPTLS, []string{"mandatory", "opportunistic", "implicit", "none"}},
		{"log.level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
		{"log.format", c.Log.Format, []string{"text", "json"}},
	} {
		if !slices.Contains(choice.allowed, choice.value) {
			f.Add(choice.path, "must be one of "+strings.Join(choice.allowed, ", "))
		}
	}
	for _, bound := range []struct {
		path        string
		value       int
		least, most int
	}{
		{"postgres.max_conns", c.Postgres.MaxConns, 4, 10_000},
		{"session.limit", c.Session.Limit, 1, 100_000},
		{"session.near_capacity", c.Session.NearCapacity, 1024, 1 << 27},
		{"auth.password_min_length", c.Auth.PasswordMinLength, 8, 64},
		{"sync.cache_mib", c.Sync.CacheMiB, 1, 1 << 20},
		{"sync.watches", c.Sync.Watches, 1, 1 << 20},
		{"sync.watches_per_account", c.Sync.WatchesPerAccount, 1, 1 << 20},
	} {
		if bound.value < bound.least || bound.value > bound.most {
			f.Add(bound.path, fmt.Sprintf("must be between %d and %d", bound.least, bound.most))
		}
	}
	c.HTTP.check(f)
	c.Session.check(f)
	c.Sync.check(f)
	c.Backup.check(f, c.Webhooks)
	for i, t := range c.ServiceTokens {
		if len(t.Token.Reveal()) < 32 {
			f.Add(fmt.Sprintf("service_tokens[%d].token", i), "must have at least 32 characters: openssl rand -hex 32")
		}
	}
	for i, w := range c.Webhooks {
		w.check(f, fmt.Sprintf("webhooks[%d]", i))
	}
}

func (c HTTP) check(f *errs.Fields) {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		f.Add("http.tls_cert", "and http.tls_key go together")
	}
	for i, p := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			f.Add(fmt.Sprintf("http.trusted_proxies[%d]", i), "must be a network such as 10.0.0.0/8")
		}
	}
	if c.PublicURL != "" {
		if u, err := url.Parse(c.PublicURL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			f.Add("http.public_url", "must be a URL such as https://stream.example.org")
		}
	}
}

func (c Session) check(f *errs.Fields) {
	for _, class := range []struct {
		name string
		SessionLifetime
	}{{"user", c.User}, {"remembered", c.Remembered}, {"creator", c.Creator}, {"admin", c.Admin}} {
		if class.Idle < 5*time.Minute || class.Absolute < class.Idle {
			f.Add("session."+class.name, "needs idle of at least 5m, and absolute no shorter than idle")
		}
	}
}

func (w Webhook) check(f *errs.Fields, at string) {
	if u, err := url.Parse(w.URL); err != nil || u.Host == "" {
		f.Add(at+".url", "must be a URL")
	}
	for j, pattern := range w.Topics {
		if _, err := path.Match(pattern, ""); err != nil {
			f.Add(fmt.Sprintf("%s.topics[%d]", at, j), "must be a name or a pattern such as session.*")
		}
	}
	if len(w.Secrets) == 0 {
		f.Add(at+".secrets", "needs at least one secret: echo whsec_$(openssl rand -base64 32)")
	}
}

// errNotMapping is a YAML value where a section was expected.
var errNotMapping = errors.New("must be a section with settings below it")
