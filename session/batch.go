package session

import (
	"context"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/session/near"
)

// MaxBatch is how many tokens ValidateBatch takes.
const MaxBatch = 1000

// Result is one answer of ValidateBatch.
type Result struct {
	View  View
	Valid bool
}

// open is a token of a batch that the near cache did not answer.
type open struct {
	cred   credential
	ticket near.Ticket
	found  found
	lease  string
	view   View
	ok     bool // view is what the token stands for
	at     []int
}

// ValidateBatch validates tokens in order: from the process, then Redis in one round trip, then PostgreSQL in one
// statement. The error, if any, stands for all: then nobody may be let in.
func (m *Manager) ValidateBatch(ctx context.Context, tokens []string) ([]Result, error) {
	if len(tokens) > MaxBatch {
		return nil, errs.NewInvalid("tokens", "must be at most 1000")
	}
	mono := m.clock.mono()
	if m.clock.blind(mono, m.cfg.MaxBlind) {
		return nil, m.refuseBlind()
	}
	out := make([]Result, len(tokens))
	rest := m.fromNear(tokens, out, mono)
	if len(rest) == 0 {
		return out, nil
	}
	if err := m.resolve(ctx, rest, mono); err != nil {
		return nil, err
	}
	if !m.Ready() { // it may have taken long
		return nil, m.refuseBlind()
	}
	m.finishBatch(rest, out)
	return out, nil
}

// fromNear answers what the process knows and returns what is still open, each token once.
func (m *Manager) fromNear(tokens []string, out []Result, mono int64) []*open {
	now := m.clock.at(mono)
	var rest []*open
	var hint ClientHint
	byKey := map[near.Key]*open{}
	for i, token := range tokens {
		c, ok := hashed(token)
		if !ok || (c.legacy && !m.legacy.possible.Load()) {
			continue
		}
		if v, ok := m.near.Get(c.key(), mono); ok && !v.idle(now) {
			if !v.expired(now) {
				m.answer(&v, &c, &hint, now)
				out[i] = Result{v, true}
			}
			continue
		}
		if !c.plausible(token) {
			continue
		}
		if o, ok := byKey[c.key()]; ok {
			o.at = append(o.at, i)
			continue
		}
		if _, unknown := m.negative.Get(c.key(), mono); unknown || m.marks.get(c.key()).dead(now) {
			continue
		}
		o := &open{cred: c, ticket: m.near.Ticket(c.key()), at: []int{i}}
		byKey[c.key()] = o
		rest = append(rest, o)
	}
	return rest
}

// finishBatch judges what was read by what has been heard meanwhile.
func (m *Manager) finishBatch(rest []*open, out []Result) {
	var hint ClientHint
	for _, o := range rest {
		known := m.marks.get(o.cred.key())
		known.cap(&o.view)
		now := m.nowFor(&o.view)
		if !o.ok || o.view.expired(now) || m.idle(&o.view, now) {
			m.reject(&o.cred)
			continue
		}
		m.answer(&o.view, &o.cred, &hint, now)
		for _, i := range o.at {
			out[i] = Result{o.view, true}
		}
	}
}

// resolve finds the views of rest in Redis, then in PostgreSQL, and fills the caches.
func (m *Manager) resolve(ctx context.Context, rest []*open, began int64) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	missing := rest
	if m.shared.usable() {
		missing = m.fromRedis(ctx, rest)
	}
	if len(missing) > 0 {
		if err := m.fromDatabase(ctx, missing); err != nil {
			return err
		}
	}
	for _, o := range rest {
		if o.ok {
			o.view, o.ok, _ = m.keep(&o.cred, o.view, began, o.ticket)
		}
	}
	return nil
}

// fromRedis returns those it could not find, with leases to fill them in.
func (m *Manager) fromRedis(ctx context.Context, rest []*open) []*open {
	names := make([]string, len(rest))
	for i, o := range rest {
		names[i] = cache.SessionView(o.cred.hash)
	}
	values, err := m.shared.client.GetMany(ctx, names)
	if err != nil {
		m.shared.rest()
		return rest
	}
	now := m.clock.now()
	var missing []*open
	var creds []*credential
	for i, o := range rest {
		o.found = m.shared.judge(&o.cred, values[i])
		o.view, o.ok = o.found.view, o.found.ok && !o.found.view.idle(now) && m.marks.believes(o.cred.key(), &o.found.view)
		if !o.ok {
			missing, creds = append(missing, o), append(creds, &o.cred)
		}
	}
	if len(missing) > 0 {
		for i, lease := range m.shared.reserveAll(ctx, creds) {
			missing[i].lease = lease
		}
	}
	return missing
}

func (m *Manager) fromDatabase(ctx context.Context, missing []*open) error {
	hashes := make([][]byte, len(missing))
	for i, o := range missing {
		hashes[i] = o.cred.hash[:]
	}
	m.counts.dbLoads.Add(1)
	views, err := loadAll(ctx, m.cfg.DB, hashes)
	if err != nil {
		return err
	}
	m.loaded()
	var fills []fillIn
	now := m.clock.now()
	for _, o := range missing {
		o.view, o.ok = views[o.cred.hash]
		if o.ok && o.lease != "" && !m.marks.get(o.cred.key()).dead(now) {
			fills = append(fills, fillIn{&o.cred, &o.view, o.lease, o.found.raw})
		}
	}
	if len(fills) > 0 {
		m.shared.store(ctx, fills)
	}
	return nil
}
