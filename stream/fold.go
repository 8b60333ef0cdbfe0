package stream

import (
	"time"

	"rootstream/event"
)

// Folded are the fields that [Fold] keeps: nobody else changes them.
func Folded() []string {
	return []string{"user_id", "is_live", "session_id", "bitrate_kbps", "resolution", "created_at", "updated_at", "started_at", "ended_at", "duration_seconds", "total_viewers"}
}

// FoldVersion is to be raised when Fold changes.
const FoldVersion = 1

// Fold is a stream's state as its events tell it: whether it is live, since
// when, and how it went. Its name and description are in its row alone, where
// they can be erased. Fields of others in state are left as they are.
func Fold(state map[string]any, e event.Event) (map[string]any, error) {
	if e.Name == "stream.deleted" {
		return map[string]any{"_deleted": true}, nil
	}
	took, known := folds()[e.Name]
	if !known {
		return state, nil
	}
	data, err := e.Fields()
	if err != nil {
		return nil, err
	}
	for from, to := range took {
		if v := data[from]; v != nil && v != "" {
			state[to] = v
		}
	}
	at := e.At.UTC().Format(time.RFC3339Nano)
	state["updated_at"] = at
	switch e.Name {
	case "stream.created":
		state["is_live"], state["created_at"] = false, at
	case "stream.started":
		state["is_live"], state["started_at"] = true, at
		for _, of := range []string{"ended_at", "duration_seconds", "total_viewers"} {
			delete(state, of)
		}
	case "stream.stopped":
		state["is_live"], state["ended_at"] = false, at
	}
	return state, nil
}

// folds are the fields of events, and what they are called in the state.
func folds() map[string]map[string]string {
	return map[string]map[string]string{
		"stream.created": {"user_id": "user_id"},
		"stream.started": {"user_id": "user_id", "session_id": "session_id", "bitrate": "bitrate_kbps", "resolution": "resolution"},
		"stream.stopped": {"session_id": "session_id", "duration": "duration_seconds", "viewers": "total_viewers"},
		"stream.updated": {},
	}
}
