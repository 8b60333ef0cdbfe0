package statesync

import "context"

// Scheduled is what happens when it may be time for a snapshot.
func (m *Manager) Scheduled(ctx context.Context) error { return m.scheduled(ctx) }

// LookForErased is what an instance that runs for long does every minute.
func (m *Manager) LookForErased(ctx context.Context) error {
	forgotten := true
	return m.erased(ctx, &forgotten)
}
