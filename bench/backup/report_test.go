package main

import (
	"strings"
	"testing"
)

func TestASectionTakesThePlaceOfItsPredecessorAlone(t *testing.T) {
	t.Parallel()
	hundred, threehundred := heading+"Scale 100\n\nold\n", heading+"Scale 300\n\nkept\n"
	doc := document(document("", threehundred), hundred)
	doc = document(doc, heading+"Scale 100\n\nnew\n")
	beside := heading + "Scale 100, beside pgbench\n\nkept\n"
	doc = document(document(doc, beside), heading+"Scale 100\n\nnew\n")
	want := preface + heading + "Scale 100\n\nnew\n" + beside + threehundred
	if doc != want {
		t.Errorf("got\n%s\nwant\n%s", doc, want)
	}
	if strings.Contains(doc, "\nold\n") {
		t.Error("the old section is still there")
	}
}
