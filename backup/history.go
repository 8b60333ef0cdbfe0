package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"rootstream/postgres"
)

// historyPatience bounds what the table may take of a command's time: it is a view, and nothing waits for it.
const historyPatience = 5 * time.Second

// refresh is remember after something changed.
func (m *Manager) refresh(ctx context.Context) {
	if m.cfg.History == nil {
		return
	}
	if all, err := m.List(ctx); err == nil {
		m.remember(ctx, all)
	}
}

// remember makes backup_history say what the repository says. Nothing fails
// when the database is down: the repository is the truth.
func (m *Manager) remember(ctx context.Context, backups []Backup) {
	if m.cfg.History == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), historyPatience)
	defer cancel()
	if err := m.writeHistory(ctx, backups); err != nil {
		m.log.DebugContext(ctx, "backup_history was not written", "err", err)
	}
}

func (m *Manager) writeHistory(ctx context.Context, backups []Backup) error {
	body, err := json.Marshal(backups)
	if err != nil {
		return fmt.Errorf("write backup_history: %w", err)
	}
	return m.cfg.History.InTx(ctx, func(tx *postgres.Tx) error {
		for _, sql := range []string{
			`with locked as (select pg_advisory_xact_lock(hashtext('backup_history')))
			delete from backup_history h using locked
			where h.metadata->>'repository' = $1 and h.status = 'completed'
			and not exists (select 1 from jsonb_array_elements($2::jsonb) b where b->>'id' = h.metadata->>'id') and $3 <> ''`,
			`update backup_history h set metadata = h.metadata || jsonb_build_object('backup', b)
			from jsonb_array_elements($2::jsonb) b
			where h.metadata->>'repository' = $1 and h.metadata->>'id' = b->>'id' and h.metadata->'backup' is distinct from b and $3 <> ''`,
			`insert into backup_history (backup_type, backup_path, backup_size, compressed_size, encryption_method, status, started_at, completed_at, metadata)
			select b->>'type', $3 || '#' || (b->>'id'), (b->>'size_bytes')::bigint, (b->>'stored_bytes')::bigint, 'AES-256-GCM', 'completed',
				(b->>'started_at')::timestamptz, (b->>'completed_at')::timestamptz,
				jsonb_build_object('repository', $1::text, 'id', b->>'id', 'backup', b)
			from jsonb_array_elements($2::jsonb) b
			where b->>'type' <> '' and not exists (
				select 1 from backup_history h where h.metadata->>'repository' = $1 and h.metadata->>'id' = b->>'id')`,
		} {
			if _, err := tx.Exec(ctx, sql, m.repo.ID().String(), string(body), m.URL()); err != nil {
				return fmt.Errorf("write backup_history: %w", err)
			}
		}
		return nil
	})
}

// rememberFailure keeps a run that made no backup.
func (m *Manager) rememberFailure(ctx context.Context, t Type, started time.Time, cause error) {
	if m.cfg.History == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), historyPatience)
	defer cancel()
	_, err := m.cfg.History.Exec(ctx, `insert into backup_history (backup_type, backup_path, status, started_at, completed_at, error_message, metadata)
		values ($1, $2, 'failed', $3, now(), $4, jsonb_build_object('repository', $5::text))`,
		string(t), m.URL(), started, cause.Error(), m.repo.ID().String())
	if err != nil {
		m.log.DebugContext(ctx, "backup_history was not written", "err", err)
	}
}
