package restore_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rootstream/backup/restore"
	"rootstream/errs"
)

func TestTargetsAreReadAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	when := time.Date(2026, 11, 28, 1, 2, 3, 500_000_000, time.UTC)
	for _, tt := range []struct {
		name string
		spec restore.Spec
		want restore.Target
	}{
		{"nothing", restore.Spec{}, restore.Target{Kind: restore.Latest, Action: restore.Promote}},
		{"the newest backup", restore.Spec{Backup: "latest"}, restore.Target{Kind: restore.Latest, Action: restore.Promote}},
		{"RFC 3339", restore.Spec{Time: "2026-11-28T01:02:03.5Z"}, restore.Target{Kind: restore.AtTime, Time: when, Action: restore.Promote}},
		{"as PostgreSQL prints it", restore.Spec{Time: "2026-11-28 02:02:03.5+01"}, restore.Target{Kind: restore.AtTime, Time: when, Action: restore.Promote}},
		{"half an hour off", restore.Spec{Time: "2026-11-28 06:32:03.5+05:30"}, restore.Target{Kind: restore.AtTime, Time: when, Action: restore.Promote}},
		{"position", restore.Spec{LSN: "16/B374D848", Exclusive: true, Action: "pause"}, restore.Target{Kind: restore.AtLSN, LSN: 0x16B374D848, Exclusive: true, Action: restore.Pause}},
		{"transaction", restore.Spec{XID: "742", Timeline: "3"}, restore.Target{Kind: restore.AtXID, XID: 742, Timeline: 3, Action: restore.Promote}},
		{"name", restore.Spec{Name: "before the deploy", Timeline: "current"}, restore.Target{Kind: restore.AtName, Name: "before the deploy", Current: true, Action: restore.Promote}},
		{"immediate", restore.Spec{Immediate: true, Action: "shutdown", Backup: "x"}, restore.Target{Kind: restore.Immediate, Backup: "x", Action: restore.Shutdown}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.spec.Parse()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(restore.Target{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryWrongFlagIsNamed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		spec restore.Spec
		want []string
	}{
		{restore.Spec{Time: "2026-11-28 01:02:03"}, []string{"target_time"}},
		{restore.Spec{Time: "yesterday", LSN: "12", XID: "-1"}, []string{"target_time", "target_lsn", "target_xid", "target"}},
		{restore.Spec{XID: "2"}, []string{"target_xid"}},
		{restore.Spec{XID: "4294967298"}, []string{"target_xid"}},
		{restore.Spec{Name: "a\nb"}, []string{"target_name"}},
		{restore.Spec{Immediate: true, LSN: "0/1"}, []string{"target"}},
		{restore.Spec{Timeline: "newest", Action: "explode"}, []string{"target_timeline", "target_action"}},
		{restore.Spec{Action: "pause"}, []string{"target_action"}},
		{restore.Spec{Exclusive: true}, []string{"exclusive"}},
		{restore.Spec{Name: "x", Exclusive: true}, []string{"exclusive"}},
	} {
		_, err := tt.spec.Parse()
		var got []string
		for _, f := range errs.FieldsOf(err) {
			got = append(got, f.Field)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tt.spec, diff)
		}
	}
}
