package statesync

import "context"

// Scheduled is what happens when it may be time for a snapshot.
func (m *Manager) Scheduled(ctx context.Context) error { return m.scheduled(ctx) }
