package session

import (
	"context"
	"time"

	"rootstream/session/near"
)

// Validate says what a token stands for. Errors are [ErrInvalid], or of kind errs.Unavailable when it cannot be
// known; then nobody may be let in.
func (m *Manager) Validate(ctx context.Context, token string, hint ClientHint) (View, error) {
	c, ok := hashed(token)
	if !ok || (c.legacy && !m.legacy.possible.Load()) {
		return View{}, ErrInvalid
	}
	if !hint.Strong {
		mono := m.clock.mono()
		if v, ok := m.near.Get(c.key(), mono); ok {
			if m.clock.blind(mono, m.cfg.MaxBlind) {
				return View{}, m.refuseBlind()
			}
			now := m.clock.at(mono)
			if v.expired(now) {
				return View{}, ErrInvalid
			}
			if !v.idle(now) {
				m.answer(&v, &c, &hint, now)
				return v, nil
			}
		}
	}
	if !c.plausible(token) {
		return View{}, ErrInvalid
	}
	asked := c // what a reading needs goes to the heap, which a hit does not
	return m.find(ctx, &asked, hint)
}

// answer is the last step of every successful validation.
func (m *Manager) answer(v *View, c *credential, hint *ClientHint, now int64) {
	if !hint.Quiet && now-v.LastActivity >= v.coalesce() {
		m.touch(v, c, now)
	}
	if hint.DeviceID != "" || hint.UserAgent != "" {
		v.Device = v.match(hint)
	}
}

func (m *Manager) refuseBlind() error {
	m.counts.refusedBlind.Add(1)
	return ErrBlind.WithRetryAfter(time.Second)
}

// find validates what the near cache cannot.
func (m *Manager) find(ctx context.Context, c *credential, hint ClientHint) (View, error) {
	if !hint.Strong {
		if mono := m.clock.mono(); m.clock.blind(mono, m.cfg.MaxBlind) {
			return View{}, m.refuseBlind()
		} else if _, unknown := m.negative.Get(c.key(), mono); unknown || m.marks.get(c.key()).dead(m.clock.at(mono)) {
			return View{}, ErrInvalid
		}
	}
	get := m.read
	if hint.Strong {
		get = m.fresh
	}
	v, live, err := get(ctx, c)
	if err == nil && live && !hint.Strong && (v.idle(m.clock.now()) || v.Version < m.marks.get(c.key()).version) {
		v, live, err = m.fresh(ctx, c) // a view may be older than the last activity, or than a change heard of meanwhile
	}
	if err != nil {
		return View{}, err
	}
	if !live {
		m.reject(c)
		return View{}, ErrInvalid
	}
	if !hint.Strong && !m.Ready() { // the reading may have taken long
		return View{}, m.refuseBlind()
	}
	now := m.nowFor(&v)
	known := m.marks.get(c.key())
	known.cap(&v)
	if v.expired(now) || m.idle(&v, now) {
		m.reject(c)
		return View{}, ErrInvalid
	}
	m.answer(&v, c, &hint, now)
	return v, nil
}

// reject remembers for a second that a token is not valid.
func (m *Manager) reject(c *credential) {
	m.negative.Put(c.key(), struct{}{}, m.clock.mono()+int64(negativeTTL), m.negative.Ticket(c.key()))
}

// nowFor is the database's time, at least as a reading of it says: before the first poll nothing else is known.
func (m *Manager) nowFor(v *View) int64 { return max(m.clock.now(), v.FilledAt) }

// idle takes into account what has been heard from the client and is not written down yet.
func (m *Manager) idle(v *View, now int64) bool {
	if !v.idle(now) {
		return false
	}
	v.LastActivity = max(v.LastActivity, m.activity.last(v.DBSessionID))
	return v.idle(now)
}

// read gets a view from Redis or PostgreSQL, through one reader for all who ask. It was true when that reader
// began; what has been heard since is in the marks, which the caller looks at last.
func (m *Manager) read(ctx context.Context, c *credential) (View, bool, error) {
	return m.flights.do(ctx, c.key(), func(ctx context.Context) (View, bool, error) {
		began, ticket := m.clock.mono(), m.near.Ticket(c.key())
		v, live, err := m.fetch(ctx, c)
		if err != nil || !live {
			return View{}, false, err
		}
		return m.keep(c, v, began, ticket)
	})
}

// keep puts a view into the process's cache, unless it is known to have ended or something was invalidated since the
// ticket was taken.
func (m *Manager) keep(c *credential, v View, began int64, ticket near.Ticket) (View, bool, error) {
	known := m.marks.get(c.key())
	if known.dead(m.nowFor(&v)) {
		return View{}, false, nil
	}
	known.cap(&v)
	m.near.Put(c.key(), v, began+m.nearLife(&v), ticket)
	return v, true, nil
}

// nearLife is how long a view may stay in the process: what is left of its source's life, 5 s at most.
func (m *Manager) nearLife(v *View) int64 {
	life := m.cfg.NearTTL
	if !m.shared.heard() {
		life = min(life, nearTTLAlone)
	}
	left := time.Duration(v.FilledAt-m.clock.now())*time.Microsecond + m.cfg.ViewMaxAge
	return int64(max(0, min(life, left)))
}

// fetch reads Redis, else PostgreSQL, and then fills Redis if it may.
func (m *Manager) fetch(ctx context.Context, c *credential) (View, bool, error) {
	var f found
	var lease string
	if m.shared.usable() {
		var err error
		if f, err = m.shared.get(ctx, c); err == nil {
			if f.ok && m.marks.believes(c.key(), &f.view) {
				return f.view, true, nil
			}
			lease = m.shared.reserve(ctx, c)
		}
	}
	v, live, err := m.loadOne(ctx, c)
	if err != nil || !live {
		return View{}, false, err
	}
	m.loaded()
	if lease != "" && !m.marks.get(c.key()).dead(m.clock.now()) {
		m.shared.store(ctx, []fillIn{{c, &v, lease, f.raw}})
	}
	return v, true, nil
}

// fresh reads PostgreSQL whatever the caches say.
func (m *Manager) fresh(ctx context.Context, c *credential) (View, bool, error) {
	began, ticket := m.clock.mono(), m.near.Ticket(c.key())
	v, live, err := m.loadOne(ctx, c)
	if err != nil || !live {
		return View{}, false, err
	}
	m.loaded()
	return m.keep(c, v, began, ticket)
}
