// Package notifytest is a small real SMTP server for tests.
//
// [NewSMTP] listens on a loopback port and speaks enough of RFC 5321 for any
// client: EHLO, STARTTLS (RFC 3207), AUTH PLAIN (RFC 4954), MAIL, RCPT, DATA,
// RSET, NOOP, QUIT. It keeps what it accepts, and misbehaves on demand.
package notifytest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Message is a mail as the server accepted it.
type Message struct {
	From   string   // of the envelope
	To     []string // of the envelope
	Data   string   // header and body as sent
	Secure bool     // the connection was encrypted
	User   string   // who authenticated
}

// Header returns a header field, decoded.
func (m Message) Header(name string) string {
	p, err := mail.ReadMessage(strings.NewReader(m.Data))
	if err != nil {
		return ""
	}
	v := p.Header.Get(name)
	if d, err := new(mime.WordDecoder).DecodeHeader(v); err == nil {
		return d
	}
	return v
}

// Text returns the body, decoded, with \n at the end of lines.
func (m Message) Text() string {
	p, err := mail.ReadMessage(strings.NewReader(m.Data))
	if err != nil {
		return ""
	}
	body := p.Body
	switch strings.ToLower(p.Header.Get("Content-Transfer-Encoding")) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// Config says how the server behaves.
type Config struct {
	StartTLS    bool // offer STARTTLS
	ImplicitTLS bool // speak TLS from the first byte
	User        string
	Password    string // with User: demand AUTH PLAIN
	// Answer may replace the answer to a command; "" leaves it. The end of the
	// data arrives as ".".
	Answer func(command string) string
	// Silent accepts connections and never says a word.
	Silent bool
}

// SMTP is a running server. It ends with the test.
type SMTP struct {
	Host string
	Port int
	// RootCAs trusts the server's certificate.
	RootCAs *x509.CertPool

	cfg      Config
	tls      *tls.Config
	mu       sync.Mutex
	messages []Message
	conns    map[net.Conn]bool
	arrived  chan struct{}
}

// NewSMTP starts a server on a free loopback port.
func NewSMTP(tb testing.TB, cfg Config) *SMTP {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	s := &SMTP{Host: host, cfg: cfg, conns: map[net.Conn]bool{}, arrived: make(chan struct{}, 1)}
	if s.Port, err = strconv.Atoi(port); err != nil {
		tb.Fatal(err)
	}
	if cfg.StartTLS || cfg.ImplicitTLS {
		if s.tls, s.RootCAs, err = selfSigned(net.ParseIP(host)); err != nil {
			tb.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.accept(l, &wg) })
	tb.Cleanup(func() {
		_ = l.Close()
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

// Messages returns what was accepted so far.
func (s *SMTP) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.messages...)
}

// Wait waits until n messages were accepted and returns them all; it fails the test after half a minute.
func (s *SMTP) Wait(tb testing.TB, n int) []Message {
	tb.Helper()
	limit := time.After(30 * time.Second)
	for {
		if m := s.Messages(); len(m) >= n {
			return m
		}
		select {
		case <-s.arrived:
		case <-time.After(20 * time.Millisecond): // another waiter may have taken the notice
		case <-limit:
			tb.Fatalf("%d mails arrived within 30 s, want %d", len(s.Messages()), n)
		}
	}
}

func (s *SMTP) accept(l net.Listener, wg *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		wg.Go(func() {
			s.serve(c)
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// session is one connection.
type session struct {
	srv  *SMTP
	conn net.Conn
	text *textproto.Conn
	m    Message
}

func (s *SMTP) serve(c net.Conn) {
	if s.cfg.Silent {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	secure := false
	if s.cfg.ImplicitTLS {
		c, secure = tls.Server(c, s.tls), true
	}
	ss := &session{srv: s, conn: c, text: textproto.NewConn(c)}
	ss.m.Secure = secure
	ss.say("220 notifytest ESMTP")
	for {
		line, err := ss.text.ReadLine()
		if err != nil {
			return
		}
		if s.cfg.Answer != nil {
			if a := s.cfg.Answer(line); a != "" {
				ss.say(a)
				continue
			}
		}
		if !ss.command(line) {
			return
		}
	}
}

func (ss *session) say(line string) { _ = ss.text.PrintfLine("%s", line) }

// command answers one command; false ends the connection.
func (ss *session) command(line string) bool {
	verb, arg, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO", "HELO":
		ss.hello()
	case "STARTTLS":
		return ss.startTLS()
	case "AUTH":
		ss.auth(arg)
	case "MAIL":
		if ss.srv.cfg.User != "" && ss.m.User == "" {
			ss.say("530 5.7.0 authentication required")
			return true
		}
		ss.m.From, ss.m.To = path(arg), nil
		ss.say("250 2.1.0 ok")
	case "RCPT":
		ss.m.To = append(ss.m.To, path(arg))
		ss.say("250 2.1.5 ok")
	case "DATA":
		return ss.data()
	case "RSET":
		ss.m.From, ss.m.To = "", nil
		ss.say("250 2.0.0 ok")
	case "NOOP":
		ss.say("250 2.0.0 ok")
	case "QUIT":
		ss.say("221 2.0.0 bye")
		return false
	default:
		ss.say("502 5.5.1 unknown command")
	}
	return true
}

func (ss *session) hello() {
	lines := []string{"notifytest", "8BITMIME", "ENHANCEDSTATUSCODES"}
	if ss.srv.cfg.StartTLS && !ss.m.Secure {
		lines = append(lines, "STARTTLS")
	}
	if ss.srv.cfg.User != "" {
		lines = append(lines, "AUTH PLAIN")
	}
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		ss.say("250" + sep + l)
	}
}

func (ss *session) startTLS() bool {
	if !ss.srv.cfg.StartTLS || ss.m.Secure {
		ss.say("502 5.5.1 not now")
		return true
	}
	ss.say("220 2.0.0 go ahead")
	c := tls.Server(ss.conn, ss.srv.tls)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return false
	}
	ss.conn, ss.text = c, textproto.NewConn(c)
	ss.m = Message{Secure: true}
	return true
}

func (ss *session) auth(arg string) {
	mechanism, initial, _ := strings.Cut(arg, " ")
	if strings.ToUpper(mechanism) != "PLAIN" {
		ss.say("504 5.5.4 only PLAIN")
		return
	}
	raw, err := base64.StdEncoding.DecodeString(initial)
	parts := strings.Split(string(raw), "\x00")
	if err != nil || len(parts) != 3 || parts[1] != ss.srv.cfg.User || parts[2] != ss.srv.cfg.Password {
		ss.say("535 5.7.8 wrong credentials for " + string(raw))
		return
	}
	ss.m.User = parts[1]
	ss.say("235 2.7.0 welcome")
}

func (ss *session) data() bool {
	if len(ss.m.To) == 0 {
		ss.say("503 5.5.1 no recipient")
		return true
	}
	ss.say("354 end with a dot")
	b, err := io.ReadAll(bufio.NewReader(ss.text.DotReader()))
	if err != nil {
		return false
	}
	if ss.srv.cfg.Answer != nil {
		if a := ss.srv.cfg.Answer("."); a != "" {
			ss.say(a)
			return true
		}
	}
	m := ss.m
	m.Data = string(bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")))
	ss.srv.mu.Lock()
	ss.srv.messages = append(ss.srv.messages, m)
	n := len(ss.srv.messages)
	ss.srv.mu.Unlock()
	ss.say(fmt.Sprintf("250 2.0.0 accepted as %d", n))
	select {
	case ss.srv.arrived <- struct{}{}:
	default:
	}
	return true
}

// path cuts the address out of FROM:<a@b> SIZE=1.
func path(arg string) string {
	_, rest, _ := strings.Cut(arg, "<")
	addr, _, _ := strings.Cut(rest, ">")
	return addr
}
