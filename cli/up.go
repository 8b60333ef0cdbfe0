package cli

import (
	"os"

	"github.com/spf13/cobra"

	"rootstream/app"
	"rootstream/app/config"
)

func upCommand(env *environment) *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use: "up", Short: "Run the whole stack on this machine", Args: cobra.NoArgs,
		Example: "  rootstream up\n  rootstream up --data ~/rootstream --listen 127.0.0.1:9000",
		Long: `Run PostgreSQL, Redis and the API on this machine from one data folder.

Prints "rootstream is ready: URL" when requests can be answered. Ctrl-C stops everything;
the data stays. What a killed predecessor left is cleaned up at the next start.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(config.Source{File: env.configFile, Env: os.Environ()})
			if err != nil {
				return err
			}
			dir := env.dataDir
			if dir == "" {
				dir = config.DefaultDataDir()
			}
			if listen == "" {
				listen = cfg.HTTP.Listen
			}
			return app.Up(cmd.Context(), app.UpOptions{
				DataDir: dir, Listen: listen, ConfigFile: env.configFile, Config: cfg, Stdout: env.stdout, Stderr: env.stderr,
			})
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "`address` of the API (default 127.0.0.1:8080)")
	return c
}

func serveCommand(env *environment) *cobra.Command {
	var listen, cert, key string
	c := &cobra.Command{
		Use: "serve", Short: "Run the API against a PostgreSQL and a Redis that are there", Args: cobra.NoArgs,
		Example: "  rootstream serve --postgres postgres://rootstream@db/rootstream --redis redis://cache:6379",
		Long: `Run one instance of the API; run as many as you like, they keep nothing.

The schema is expanded first, which programs of Phase 24.2 survive. Passwords are better
given by ROOTSTREAM_POSTGRES_DSN_FILE and ROOTSTREAM_REDIS_URL_FILE than on the command line.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := env.config(map[string]string{"http.listen": listen, "http.tls_cert": cert, "http.tls_key": key})
			if err != nil {
				return err
			}
			return app.Serve(cmd.Context(), cfg, env.stdout, env.stderr)
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "`address` of the API (default 127.0.0.1:8080)")
	c.Flags().StringVar(&cert, "tls-cert", "", "`file` with the TLS certificate chain")
	c.Flags().StringVar(&key, "tls-key", "", "`file` with the TLS private key")
	return c
}

func nodeCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use: "node", Short: "Be the parent of a data folder's PostgreSQL", Args: cobra.NoArgs,
		Example: "  rootstream node --data /var/lib/rootstream",
		Long: `Start the PostgreSQL of a data folder, or attach to it if it runs, and keep it running.

rootstream up runs this; by itself it is for hosts where PostgreSQL and the API are apart.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(config.Source{File: env.configFile, Env: os.Environ()})
			if err != nil {
				return err
			}
			dir := env.dataDir
			if dir == "" {
				dir = config.DefaultDataDir()
			}
			return app.Node(cmd.Context(), dir, cfg, env.stderr)
		},
	}
}
