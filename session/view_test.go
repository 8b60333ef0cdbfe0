package session_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"rootstream/session"
	"rootstream/session/near"
)

func drawView(t *rapid.T) session.View {
	id := func(name string) uuid.UUID {
		return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name))
	}
	n := func(name string) int64 { return rapid.Int64().Draw(t, name) }
	return session.View{
		SessionID: id("session"), UserID: id("user"), DBSessionID: n("db session"), DBUserID: n("db user"),
		Version: n("version"), AuthAt: n("auth"), MFAAt: n("mfa"), CreatedAt: n("created"), ExpiresAt: n("expires"),
		LastActivity: n("activity"), FilledAt: n("filled"),
		DeviceHash: rapid.Uint64().Draw(t, "device"), PrintHash: rapid.Uint64().Draw(t, "print"),
		IdleSeconds: rapid.Uint32().Draw(t, "idle"), Generation: rapid.Int32().Draw(t, "generation"),
		Role: session.Role(rapid.Uint8Range(0, 2).Draw(t, "role")), AAL: rapid.Uint8Range(1, 2).Draw(t, "aal"),
		Verified: rapid.Bool().Draw(t, "verified"), Remembered: rapid.Bool().Draw(t, "remembered"),
	}
}

func TestViewSurvivesTheCodec(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := drawView(t)
		b := session.EncodeView(v)
		got, ok := session.DecodeView(b)
		if diff := cmp.Diff(v, got); !ok || diff != "" {
			t.Fatalf("decoded %t (-want +got):\n%s", ok, diff)
		}
		if binary.BigEndian.Uint64(b[1:]) != uint64(v.Version) {
			t.Fatal("the version is not where the scripts look for it")
		}
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		if _, ok := session.DecodeView(b[:cut]); ok {
			t.Fatal("a part of a view was decoded")
		}
	})
}

func FuzzDecodeView(f *testing.F) {
	f.Add(session.EncodeView(session.View{AAL: 1}))
	f.Add([]byte("T12345678"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, ok := session.DecodeView(b)
		if !ok {
			if v != (session.View{}) {
				t.Error("a refused view is not empty")
			}
			return
		}
		if string(session.EncodeView(v)) != string(b) {
			t.Error("two encodings of one view")
		}
	})
}

func TestIdleAndFreshnessFollowTheView(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	v := session.View{AAL: 2, MFAAt: now.Add(-10 * time.Minute).UnixMicro(), LastActivity: now.UnixMicro(), IdleSeconds: 600}
	if got := session.Time(v.IdleExpiresAt()); !got.Equal(now.Add(11 * time.Minute)) {
		t.Errorf("idle window ends %v", got)
	}
	if !v.FreshMFA(now, 15*time.Minute) || v.FreshMFA(now, 5*time.Minute) {
		t.Error("freshness is not judged by its window")
	}
	v.IdleSeconds, v.AAL = 0, 1
	if v.IdleExpiresAt() != 0 || v.FreshMFA(now, 15*time.Minute) || !session.Time(0).IsZero() {
		t.Error("never is not never")
	}
	for _, tt := range []struct {
		name string
		view session.View
		want time.Duration
	}{
		{"short idle", session.View{IdleSeconds: 300}, time.Minute},
		{"long idle", session.View{IdleSeconds: 14 * 24 * 3600}, 14 * 24 * time.Hour / 20},
		{"no idle, a day", session.View{ExpiresAt: 24 * time.Hour.Microseconds()}, time.Hour},
		{"no idle, short", session.View{ExpiresAt: time.Minute.Microseconds()}, time.Minute},
	} {
		if got := tt.view.Coalesce(); got != tt.want {
			t.Errorf("%s: activity every %v, want %v", tt.name, got, tt.want)
		}
	}
	if session.RoleAdmin.String() != "admin" || session.Role(9).String() != "role 9" {
		t.Error("roles have no names")
	}
	if b, err := session.RoleOperator.MarshalText(); err != nil || string(b) != "operator" {
		t.Errorf("%q %v", b, err)
	}
}

// Marks: whatever the order of what is heard, a token's end and the newest version stay.
func TestMarksKeepTheEarliestEndAndTheNewestVersion(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := session.NewMarks(100)
		k := near.Key{1}
		var version, ends int64
		for range rapid.IntRange(1, 20).Draw(t, "rows") {
			v, e := rapid.Int64Range(1, 100).Draw(t, "version"), rapid.Int64Range(0, 100).Draw(t, "ends")
			m.Add(k, v, e, 1000, 0)
			version = max(version, v)
			if e != 0 && (ends == 0 || e < ends) {
				ends = e
			}
		}
		at := rapid.Int64Range(0, 200).Draw(t, "at")
		if got, want := m.Dead(k, at), ends != 0 && ends <= at; got != want {
			t.Fatalf("dead at %d: %t, ends %d", at, got, ends)
		}
		if m.Believes(k, &session.View{Version: version - 1}) || !m.Believes(k, &session.View{Version: version}) {
			t.Fatalf("version %d is not the bound", version)
		}
	})
}

func TestMarksBeyondTheirRoomBecomeAFloor(t *testing.T) {
	t.Parallel()
	const room = 1000
	m := session.NewMarks(room)
	key := func(n int) (k near.Key) {
		binary.BigEndian.PutUint64(k[:], uint64(n)+1)
		return k
	}
	m.Add(key(0), 1, 500, 1e6, 100) // ends later than the overflow
	for n := 1; n <= room; n++ {
		m.Add(key(n), 1, 50, 1e6, 100)
	}
	if m.Len() > 10 {
		t.Errorf("%d marks after the overflow", m.Len())
	}
	if m.Believes(key(7), &session.View{Version: 9, FilledAt: 99}) {
		t.Error("a view from before the overflow is believed")
	}
	if !m.Believes(key(7), &session.View{Version: 9, FilledAt: 100}) {
		t.Error("a view from after the overflow is not")
	}
	if !m.Dead(key(0), 500) {
		t.Error("an end that lay ahead is forgotten")
	}
}
