package config_test

import (
	"os"
	"testing"

	"rootstream/app/config"
)

func TestInstancesBehindOneAddressAreToldApart(t *testing.T) {
	t.Parallel()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for listen, want := range map[string]string{
		"127.0.0.1:8081": "http://127.0.0.1:8081", "[::1]:8081": "http://[::1]:8081", "10.1.2.3:80": "http://10.1.2.3:80",
		":8080": "http://" + name + ":8080", "0.0.0.0:8080": "http://" + name + ":8080", "[::]:8080": "http://" + name + ":8080",
	} {
		c := config.Config{HTTP: config.HTTP{Listen: listen, PublicURL: "https://live.example.org"}}
		if got := c.InstanceURL(); got != want {
			t.Errorf("%s: %s, want %s", listen, got, want)
		}
	}
}
