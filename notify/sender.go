package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
)

const (
	stopGrace    = 5 * time.Second  // what is on its way at a stop gets this long
	recordFor    = 10 * time.Second // how long the database may be away before a try's outcome is lost
	claimTimeout = 10 * time.Second
	maxErrLen    = 500 // bytes of last_error
)

// Sender sends what is in the outbox.
type Sender struct {
	db      *postgres.DB
	cfg     Config
	pumps   []*pump
	metrics *metrics
}

// pump sends the messages of one channel.
type pump struct {
	channel Channel
	wake    chan struct{}
	send    func(context.Context, item) error
}

// New prepares a sender; nothing is sent before [Sender.Run].
func New(db *postgres.DB, cfg Config) (*Sender, error) {
	cfg = cfg.withDefaults()
	mail, mailErr := newMailer(cfg.Mail)
	hooks, hookErr := newHooks(cfg.Webhooks)
	if err := errors.Join(cfg.validate(), mailErr, hookErr); err != nil {
		return nil, fmt.Errorf("configure notify: %w", err)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("configure notify: %w", err)
	}
	s := &Sender{db: db, cfg: cfg, metrics: m}
	if mail != nil {
		s.pumps = append(s.pumps, &pump{ChannelMail, make(chan struct{}, 1), func(ctx context.Context, it item) error {
			return s.sendMail(ctx, mail, it)
		}})
	}
	if len(cfg.Webhooks.Endpoints) > 0 {
		s.pumps = append(s.pumps, &pump{ChannelWebhook, make(chan struct{}, 1), hooks.send})
	}
	return s, nil
}

// Enqueue is [Enqueue], and wakes this sender when tx has committed.
func (s *Sender) Enqueue(tx *postgres.Tx, m Message) error {
	if err := Enqueue(tx, m); err != nil {
		return err
	}
	tx.AfterCommit(s.Wake)
	return nil
}

// Wake makes the sender look into the outbox now.
func (s *Sender) Wake() {
	for _, p := range s.pumps {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// Run sends until ctx is over, then gives what is on its way a few seconds.
func (s *Sender) Run(ctx context.Context) error {
	if s.cfg.Mail.Dir == "" && s.cfg.Mail.SMTP.Host == "" {
		s.cfg.Logger.InfoContext(ctx, "mail is not configured and waits in the outbox")
	}
	var wg sync.WaitGroup
	for _, p := range s.pumps {
		wg.Go(func() { s.pump(ctx, p) })
	}
	wg.Go(func() { s.tidy(ctx) })
	wg.Wait()
	return nil
}

// pump claims no more messages than it can send at once, so that no lease runs
// down while its message waits here.
func (s *Sender) pump(ctx context.Context, p *pump) {
	poll := time.NewTicker(s.cfg.Poll)
	defer poll.Stop()
	slots := make(chan struct{}, s.cfg.Concurrency)
	var wg sync.WaitGroup
	defer wg.Wait()
	failing := false
	for {
		free := reserve(ctx, slots)
		if free == 0 {
			return
		}
		items, err := s.claim(ctx, p.channel, free)
		for range free - len(items) {
			<-slots
		}
		for _, it := range items {
			wg.Go(func() {
				defer func() { <-slots }()
				s.deliver(ctx, p, it)
			})
		}
		if failing != (err != nil) && ctx.Err() == nil {
			failing = err != nil
			s.cfg.Logger.WarnContext(ctx, "outbox access changed", "channel", string(p.channel), "failing", failing, "err", err)
		}
		if len(items) == free && err == nil {
			continue // there may be more
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-poll.C:
		}
	}
}

// claim finishes what it began when ctx ends meanwhile: a message that is
// claimed and then dropped would have to wait for its lease to run out.
func (s *Sender) claim(ctx context.Context, ch Channel, n int) ([]item, error) {
	ctx, cancel := graceful(ctx, claimTimeout)
	defer cancel()
	return claim(ctx, s.db, ch, n, s.cfg.Lease)
}

// graceful returns a context that ends after the timeout, or stopGrace after ctx.
func graceful(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(stopGrace, cancel)
		context.AfterFunc(out, func() { timer.Stop() })
	})
	return out, func() { stop(); cancel() }
}

// reserve waits for a free slot and takes all that are free; 0 means ctx is over.
func reserve(ctx context.Context, slots chan struct{}) int {
	select {
	case <-ctx.Done():
		return 0
	case slots <- struct{}{}:
	}
	for n := 1; ; n++ {
		select {
		case slots <- struct{}{}:
		default:
			return n
		}
	}
}

// deliver makes one try and writes down how it ended.
func (s *Sender) deliver(ctx context.Context, p *pump, it item) {
	try, cancel := graceful(ctx, s.cfg.SendTimeout)
	err := p.send(try, it)
	cancel()

	note, cancelNote := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
	defer cancelNote()
	var noteErr error
	logger := s.cfg.Logger.With("id", it.id.String(), "channel", string(p.channel), "topic", it.topic, "tries", it.tries)
	switch {
	case err == nil:
		s.metrics.sent.WithLabelValues(string(p.channel)).Inc()
		noteErr = record(note, func() error { return markSent(note, s.db, it) })
	case isFinal(err) || it.tries >= s.cfg.MaxTries:
		s.metrics.failed.WithLabelValues(string(p.channel)).Inc()
		s.metrics.abandoned.WithLabelValues(string(p.channel)).Inc()
		logger.ErrorContext(note, "message given up", "err", err)
		noteErr = record(note, func() error { return markAbandoned(note, s.db, it, errText(err)) })
	default:
		s.metrics.failed.WithLabelValues(string(p.channel)).Inc()
		wait := pause(it.tries, s.cfg.FirstRetry, errs.RetryAfter(err))
		logger.WarnContext(note, "message not sent, will retry", "err", err, "retry_in", wait.String())
		noteErr = record(note, func() error { return markRetry(note, s.db, it, wait, errText(err)) })
	}
	if noteErr != nil {
		logger.WarnContext(note, "outcome of a message not recorded, it may be sent again", "err", noteErr)
	}
}

// record writes down an outcome, trying again while the database is away.
func record(ctx context.Context, write func() error) error {
	for {
		err := write()
		if errs.KindOf(err) != errs.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// sendMail renders a message and hands it to the mailer.
func (s *Sender) sendMail(ctx context.Context, m mailer, it item) error {
	mail, err := s.render(ctx, it)
	if err != nil {
		return fmt.Errorf("render %s: %w", it.topic, err)
	}
	if mail.To == "" {
		mail.To = it.target
	}
	return m.send(ctx, it, mail)
}

func (s *Sender) render(ctx context.Context, it item) (Mail, error) {
	if render, ok := s.cfg.Renderers[it.topic]; ok {
		var m Mail
		err := s.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
			m, err = render(ctx, tx, it.payload)
			return err
		})
		return m, err
	}
	var d Data
	if err := json.Unmarshal(it.payload, &d); err != nil {
		return Mail{}, errs.New(errs.Invalid, "bad_payload", "the payload does not fit the built-in text").WithCause(err)
	}
	if d.Product == "" {
		d.Product = s.cfg.Mail.Product
	}
	return Compose(it.topic, d)
}

// item is a claimed message.
type item struct {
	id        uuid.UUID
	topic     string
	target    string
	payload   json.RawMessage
	createdAt time.Time
	tries     int // this one included
}

// isFinal reports whether trying again makes no sense.
func isFinal(err error) bool {
	switch errs.KindOf(err) {
	case errs.NotFound, errs.Gone, errs.Invalid, errs.Malformed:
		return true
	case errs.Internal, errs.Unauthenticated, errs.Forbidden, errs.Conflict, errs.Precondition, errs.RateLimited, errs.Unavailable:
		return false
	}
	return false
}

// errText is an error as the column last_error can hold it.
func errText(err error) string {
	s := strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "?"), "\x00", "?")
	if len(s) > maxErrLen {
		s = strings.ToValidUTF8(s[:maxErrLen], "") + "…"
	}
	return s
}
