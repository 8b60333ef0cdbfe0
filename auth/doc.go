// Package auth signs people up, in and out. It is the only place that joins
// users, sessions and second factors.
//
// It owns the table auth_challenges (a password was right, a code is still
// missing) and the setup tokens in user_tokens; everything else it changes
// through the stores of those rooms, in one transaction with its events and
// mails. The door is [Service]. A [Principal] is who a valid session stands
// for; the rules of freshness are its methods.
//
// No answer tells whether an account exists: unknown, wrong, disabled and
// unusable are one error, after the same work. Guesses are counted before they
// are judged: per client network and account by cache.Limiter, and per account
// by a back-off kept in Redis and in process.
//
// The one loop is [Service.Run], which drops old challenges and tokens. Mails
// are named by topic; [Renderers] writes them when they are sent, so no token
// rests in the outbox, and an address only where its account is gone or has left it.
package auth
