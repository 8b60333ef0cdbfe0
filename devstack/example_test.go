package devstack_test

import (
	"fmt"
	"path/filepath"

	"rootstream/devstack"
)

// Plan says where everything of a data folder lives, without touching it.
func ExamplePlan() {
	l, err := devstack.Plan(devstack.Config{DataDir: "/srv/rootstream", Listen: "0.0.0.0:8080"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, path := range []string{l.PostgresDir, l.MasterKeyFile, l.ClientFile} {
		fmt.Println(filepath.ToSlash(path))
	}
	fmt.Println(l.URL)
	// Output:
	// /srv/rootstream/postgres
	// /srv/rootstream/master.key
	// /srv/rootstream/client.yaml
	// http://127.0.0.1:8080
}
