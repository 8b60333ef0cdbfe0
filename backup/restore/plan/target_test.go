package plan_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rootstream/backup/restore/plan"
	"rootstream/errs"
)

func TestTargetsAreReadAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	when := time.Date(2026, 11, 28, 1, 2, 3, 500_000_000, time.UTC)
	for _, tt := range []struct {
		name string
		spec plan.Spec
		want plan.Target
	}{
		{"nothing", plan.Spec{}, plan.Target{Kind: plan.Latest, Action: plan.Promote}},
		{"the newest backup", plan.Spec{Backup: "latest"}, plan.Target{Kind: plan.Latest, Action: plan.Promote}},
		{"RFC 3339", plan.Spec{Time: "2026-11-28T01:02:03.5Z"}, plan.Target{Kind: plan.AtTime, Time: when, Action: plan.Promote}},
		{"as PostgreSQL prints it", plan.Spec{Time: "2026-11-28 02:02:03.5+01"}, plan.Target{Kind: plan.AtTime, Time: when, Action: plan.Promote}},
		{"half an hour off", plan.Spec{Time: "2026-11-28 06:32:03.5+05:30"}, plan.Target{Kind: plan.AtTime, Time: when, Action: plan.Promote}},
		{"position", plan.Spec{LSN: "16/B374D848", Exclusive: true, Action: "pause"}, plan.Target{Kind: plan.AtLSN, LSN: 0x16B374D848, Exclusive: true, Action: plan.Pause}},
		{"transaction", plan.Spec{XID: "742", Timeline: "3"}, plan.Target{Kind: plan.AtXID, XID: 742, Timeline: 3, Action: plan.Promote}},
		{"name", plan.Spec{Name: "before the deploy", Timeline: "current"}, plan.Target{Kind: plan.AtName, Name: "before the deploy", Current: true, Action: plan.Promote}},
		{"immediate", plan.Spec{Immediate: true, Action: "shutdown", Backup: "x"}, plan.Target{Kind: plan.Immediate, Backup: "x", Action: plan.Shutdown}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.spec.Parse()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(plan.Target{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryWrongFlagIsNamed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		spec plan.Spec
		want []string
	}{
		{plan.Spec{Time: "2026-11-28 01:02:03"}, []string{"target_time"}},
		{plan.Spec{Time: "yesterday", LSN: "12", XID: "-1"}, []string{"target_time", "target_lsn", "target_xid", "target"}},
		{plan.Spec{XID: "2"}, []string{"target_xid"}},
		{plan.Spec{XID: "4294967298"}, []string{"target_xid"}},
		{plan.Spec{Name: "a\nb"}, []string{"target_name"}},
		{plan.Spec{Immediate: true, LSN: "0/1"}, []string{"target"}},
		{plan.Spec{Timeline: "newest", Action: "explode"}, []string{"target_timeline", "target_action"}},
		{plan.Spec{Action: "pause"}, []string{"target_action"}},
		{plan.Spec{Exclusive: true}, []string{"exclusive"}},
		{plan.Spec{Name: "x", Exclusive: true}, []string{"exclusive"}},
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
