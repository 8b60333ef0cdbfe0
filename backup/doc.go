// Package backup backs up PostgreSQL clusters and restores them.
package backup
