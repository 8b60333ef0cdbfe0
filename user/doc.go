// Package user keeps accounts: who they are, how they are reached, what proves them.
//
// It owns the tables users, user_tokens and email_changes and starts no loop. The door is
// [Store]: create, find, change, delete, list, export, import. Every change
// appends its event in the caller's transaction. [Rules] says which names,
// addresses and passwords may be chosen; [Hasher] turns a password into a hash
// and checks one, bounded in how much it does at once. The hash never sits in
// a [User].
//
// Rows of Phase 24.2 are kept as they are: names that today's rules would
// refuse, names that differ only by case, hashes nobody can check. Single-use
// tokens (verification, recovery, first administrator) are made and consumed
// here; mailing them is the business of package notify, sessions live in
// package session, second factors in package mfa, and signing in, which joins
// them, in package auth.
package user
