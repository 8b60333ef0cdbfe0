package app

import (
	"context"

	"rootstream/devstack"
)

// Finding is one thing the doctor looked at.
type Finding = devstack.Check

// DoctorOptions says where to look.
type DoctorOptions struct {
	DataDir string                 // "" means the default
	Config  func() (Config, error) // its faults are findings too
}

// Doctor looks at this machine and the servers. It changes nothing.
func Doctor(ctx context.Context, o DoctorOptions) []Finding {
	dir := o.DataDir
	if dir == "" {
		dir = DefaultDataDir()
	}
	return devstack.Checks(ctx, devstack.Config{DataDir: dir})
}

// PartStatus is how one part is.
type PartStatus struct {
	Name   string `json:"name"`
	State  string `json:"state"` // up, down or off
	Detail string `json:"detail"`
}

// Status asks every part how it is.
func Status(ctx context.Context, cfg Config) []PartStatus {
	return nil
}
