// Package notify is the only sender: mail and signed webhooks, out of one outbox.
//
// It owns the table outbox. [Enqueue] writes a message in the transaction that
// decides it, so it is sent if and only if that commits; [Sender.Enqueue] also
// wakes the local sender. Delivery is at least once: an id that stays the same
// (Message-ID, webhook-id) lets receivers drop repeats.
//
// The loop is [Sender.Run]. It claims due messages with a lease, so that any
// number of processes share one outbox and no transaction is open while the
// network is waited for; failures are repeated with growing pauses for about a
// day. Every network call has a deadline.
//
// [Direct] sends at once and without the database, for those who must be told that it is gone.
//
// Secrets do not rest in the outbox: a [Renderer] makes the mail at sending
// time and creates tokens then. The texts of built-in topics are in templates/
// ([Compose]). Who gets told what, and when, is decided elsewhere, mostly in auth.
package notify
