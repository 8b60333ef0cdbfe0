package mfa_test

import (
	"encoding/base32"
	"testing"
	"time"

	"github.com/pquerna/otp"
	oracle "github.com/pquerna/otp/hotp"
	"pgregory.net/rapid"

	"rootstream/mfa"
)

var rfcKey = []byte("12345678901234567890")

func TestHOTPGivesTheValuesOfRFC4226(t *testing.T) {
	t.Parallel()
	want := []string{
		"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489",
	}
	for counter, code := range want {
		if got := mfa.HOTP(rfcKey, int64(counter), 6); got != code {
			t.Errorf("HOTP(%d) = %s, want %s", counter, got, code)
		}
	}
}

func TestTOTPGivesTheValuesOfRFC6238(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		unix         int64
		eight, short string
	}{
		{59, "94287082", "287082"},
		{1111111109, "07081804", "081804"},
		{1111111111, "14050471", "050471"},
		{1234567890, "89005924", "005924"},
		{2000000000, "69279037", "279037"},
		{20000000000, "65353130", "353130"}, // past 2³²
	} {
		step := mfa.StepAt(time.Unix(tt.unix, 0))
		if got := mfa.HOTP(rfcKey, step, 8); got != tt.eight {
			t.Errorf("8 digits at %d = %s, want %s", tt.unix, got, tt.eight)
		}
		if got := mfa.HOTP(rfcKey, step, 6); got != tt.short {
			t.Errorf("6 digits at %d = %s, want %s", tt.unix, got, tt.short)
		}
		first, last, ok := mfa.MatchTOTP(rfcKey, tt.short, step, false)
		if !ok || first != step || last != step {
			t.Errorf("match at %d = %d, %d, %v; want step %d", tt.unix, first, last, ok, step)
		}
	}
}

func TestStepRoundsDownBeforeTheEpochToo(t *testing.T) {
	t.Parallel()
	for unix, want := range map[int64]int64{-31: -2, -30: -1, -1: -1, 0: 0, 29: 0, 30: 1, 59: 1, 60: 2} {
		if got := mfa.StepAt(time.Unix(unix, 0)); got != want {
			t.Errorf("step at %d = %d, want %d", unix, got, want)
		}
	}
}

func TestPitfall02MatchTellsWhichStepTheCodeBelongsTo(t *testing.T) {
	t.Parallel()
	const now = 41152263
	for _, tt := range []struct {
		name   string
		step   int64
		strict bool
		ok     bool
	}{
		{"two steps old", now - 2, false, false},
		{"previous", now - 1, false, true},
		{"current", now, false, true},
		{"next", now + 1, false, true},
		{"two steps ahead", now + 2, false, false},
		{"previous, strict", now - 1, true, true},
		{"current, strict", now, true, true},
		{"next, strict", now + 1, true, false},
	} {
		first, last, ok := mfa.MatchTOTP(rfcKey, mfa.HOTP(rfcKey, tt.step, 6), now, tt.strict)
		if ok != tt.ok || ok && (first != tt.step || last != tt.step) {
			t.Errorf("%s: %d to %d, %v; want step %d, %v", tt.name, first, last, ok, tt.step, tt.ok)
		}
	}
}

// Two steps of one window can have the same code; once it was used for one it must not pass as the other's.
func TestPitfall01ACodeThatTwoStepsShareIsGoodOnceAWindow(t *testing.T) {
	t.Parallel()
	const step = 910737 // the first whose code is that of the next one, too
	code := mfa.HOTP(rfcKey, step, 6)
	if mfa.HOTP(rfcKey, step+1, 6) != code {
		t.Fatalf("steps %d and %d do not share a code", step, step+1)
	}
	used := int64(0)
	for _, tt := range []struct {
		now   int64
		fresh bool
	}{
		{step - 1, true}, // as the code of the step to come
		{step, false},
		{step + 1, false}, // though the code of this very step, and unused as such
	} {
		first, last, ok := mfa.MatchTOTP(rfcKey, code, tt.now, false)
		if !ok {
			t.Fatalf("no match at %d", tt.now)
		}
		if got := mfa.Fresh(first, last, used); got != tt.fresh {
			t.Errorf("at %d: fresh = %v, want %v", tt.now, got, tt.fresh)
		} else if got {
			used = last
		}
	}
}

func TestMatchIsGoodForAWindowAndForNothingElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 16, 64).Draw(t, "key")
		now := rapid.Int64Range(1, 1<<40).Draw(t, "now")
		at := now + rapid.Int64Range(-5, 5).Draw(t, "offset")
		code := mfa.HOTP(key, at, 6)
		first, last, ok := mfa.MatchTOTP(key, code, now, false)
		if inWindow := at >= now-1 && at <= now+1; inWindow && !ok {
			t.Fatalf("the code of step %d was refused at %d", at, now)
		}
		if !ok {
			return
		}
		if first < now-1 || last > now+1 || first > last ||
			mfa.HOTP(key, first, 6) != code || mfa.HOTP(key, last, 6) != code {
			t.Fatalf("match = %d to %d at %d for code %s", first, last, now, code)
		}
	})
}

func FuzzHOTPAgreesWithAnotherImplementation(f *testing.F) {
	f.Add(rfcKey, uint64(0))
	f.Add(rfcKey, uint64(1)<<40)
	f.Add([]byte{0}, ^uint64(0))
	f.Fuzz(func(t *testing.T, key []byte, counter uint64) {
		if len(key) == 0 {
			return
		}
		text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(key)
		for n, d := range map[int]otp.Digits{6: otp.DigitsSix, 8: otp.DigitsEight} {
			want, err := oracle.GenerateCodeCustom(text, counter, oracle.ValidateOpts{Digits: d, Algorithm: otp.AlgorithmSHA1})
			if err != nil {
				t.Fatal(err)
			}
			if got := mfa.HOTP(key, int64(counter), n); got != want {
				t.Errorf("HOTP(%x, %d, %d) = %s, want %s", key, counter, n, got, want)
			}
		}
	})
}

func BenchmarkMatchTOTP(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		mfa.MatchTOTP(rfcKey, "000000", 41152263, false)
	}
}
