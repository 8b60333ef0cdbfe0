package cachetest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rootstream/cache"
)

// sentinelPatience is for what sentinels do by themselves. One that was not scheduled for 2 s does nothing for 30 s, which
// begin again whenever that happens; one that is well demotes a master that has come back after 8 to 18 s.
const sentinelPatience = 2 * time.Minute

// SentinelSet is a master, a replica and three sentinels that watch them.
type SentinelSet struct {
	Name      string // of the master set
	Nodes     []*Redis
	Sentinels []*Redis
	tb        testing.TB
}

// Sentinel starts a master, a replica and three sentinels that find a lost master within half a second.
func Sentinel(tb testing.TB) *SentinelSet {
	tb.Helper()
	set := &SentinelSet{Name: "rootstream", tb: tb}
	master := Server(tb)
	replica := Server(tb, "replicaof 127.0.0.1 "+strconv.Itoa(master.port))
	set.Nodes = []*Redis{master, replica}
	eventually(tb, "replica in sync", func() bool {
		v, _ := replica.Try("INFO", "replication")
		s, _ := v.(string)
		return strings.Contains(s, "master_link_status:up")
	})
	for range 3 {
		set.Sentinels = append(set.Sentinels, startSentinel(tb, set.Name, master))
	}
	eventually(tb, "sentinels know each other and the replica", func() bool {
		for _, s := range set.Sentinels {
			v, _ := s.Try("SENTINEL", "MASTER", set.Name)
			if m := pairs(v); m["num-slaves"] != "1" || m["num-other-sentinels"] != "2" || m["flags"] != "master" {
				return false
			}
		}
		return true
	})
	return set
}

func startSentinel(tb testing.TB, name string, master *Redis) *Redis {
	tb.Helper()
	s := &Redis{tb: tb, dir: tb.TempDir(), password: master.password, args: []string{"--sentinel"}}
	tb.Cleanup(s.Kill)
	s.port = FreePort(tb)
	err := s.launch([]string{
		"requirepass " + s.password, "sentinel sentinel-pass " + s.password,
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", name, master.port),
		fmt.Sprintf("sentinel auth-pass %s %s", name, master.password),
		fmt.Sprintf("sentinel down-after-milliseconds %s 500", name),
		fmt.Sprintf("sentinel failover-timeout %s 4000", name),
	})
	if err != nil {
		tb.Fatalf("start sentinel: %v", err)
	}
	return s
}

// Config is how a client reaches the set.
func (s *SentinelSet) Config() cache.Config {
	cfg := cache.Config{Password: s.Nodes[0].password}
	cfg.Sentinel = cache.SentinelConfig{Master: s.Name, Password: s.Sentinels[0].password}
	for _, n := range s.Sentinels {
		cfg.Sentinel.Addrs = append(cfg.Sentinel.Addrs, n.Addr())
	}
	return cfg
}

// Client opens a client of the set, closed with the test; addresses and passwords are filled in.
func (s *SentinelSet) Client(tb testing.TB, cfg cache.Config) *cache.Client {
	tb.Helper()
	own := s.Config()
	cfg.Password, cfg.Sentinel = own.Password, own.Sentinel
	return open(tb, cfg)
}

// Master is the node the sentinels name as master now.
func (s *SentinelSet) Master() *Redis {
	s.tb.Helper()
	v := s.Sentinels[0].Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.Name)
	addr, _ := v.([]any)
	if len(addr) != 2 {
		s.tb.Fatalf("sentinel knows no master: %v", v)
	}
	for _, n := range s.Nodes {
		if n.Addr() == net.JoinHostPort(addr[0].(string), addr[1].(string)) {
			return n
		}
	}
	s.tb.Fatalf("sentinel names an unknown master %v", addr)
	return nil
}

// Failover makes the replica the master, as an operator would, and waits until all sentinels agree.
func (s *SentinelSet) Failover() {
	s.tb.Helper()
	old := s.Master()
	s.Sentinels[0].Do("SENTINEL", "FAILOVER", s.Name)
	s.awaitOther(old)
}

// KillMaster ends the master at once and waits until the sentinels have promoted the replica.
func (s *SentinelSet) KillMaster() {
	s.tb.Helper()
	old := s.Master()
	old.Kill()
	s.awaitOther(old)
}

// PauseMaster stops the master, which keeps its connections, and waits until the sentinels have promoted the replica.
func (s *SentinelSet) PauseMaster() {
	s.tb.Helper()
	old := s.Master()
	old.Pause()
	s.awaitOther(old)
}

// Settle waits until the master has its replica in sync and the sentinels know both.
func (s *SentinelSet) Settle() {
	s.tb.Helper()
	defer s.explain()
	within(s.tb, sentinelPatience, "a replica in sync", func() bool {
		for _, n := range s.Sentinels {
			v, _ := n.Try("SENTINEL", "MASTER", s.Name)
			if m := pairs(v); m["num-slaves"] != "1" || m["flags"] != "master" {
				return false
			}
		}
		v, _ := s.Replica().Try("INFO", "replication")
		info, _ := v.(string)
		return strings.Contains(info, "role:slave") && strings.Contains(info, "master_link_status:up")
	})
}

// Replica is the node that is not the master.
func (s *SentinelSet) Replica() *Redis {
	s.tb.Helper()
	master := s.Master()
	for _, n := range s.Nodes {
		if n != master {
			return n
		}
	}
	s.tb.Fatal("there is no replica")
	return nil
}

// LoseTail keeps the replica from hearing of what the master is told for so long, and after. Rejoin ends that.
func (s *SentinelSet) LoseTail(of time.Duration) {
	s.tb.Helper()
	s.Replica().Do("CONFIG", "SET", "masterauth", "not the password")
	s.Master().Do("CLIENT", "KILL", "TYPE", "replica")
	wait(of)
}

// Rejoin lets every node that runs be a replica again.
func (s *SentinelSet) Rejoin() {
	s.tb.Helper()
	s.Master().Do("CONFIG", "SET", "masterauth", s.Nodes[0].password)
	s.Master().Do("CONFIG", "REWRITE")
}

// Mislead makes one sentinel take another server for the master, which it has not heard of a failover of.
func (s *SentinelSet) Mislead(sentinel, master *Redis) {
	s.tb.Helper()
	sentinel.Do("SENTINEL", "REMOVE", s.Name)
	sentinel.Do("SENTINEL", "MONITOR", s.Name, "127.0.0.1", strconv.Itoa(master.port), "2")
	sentinel.Do("SENTINEL", "SET", s.Name, "auth-pass", master.password)
}

// explain shows what everybody has written of late if the test has failed.
func (s *SentinelSet) explain() {
	if !s.tb.Failed() {
		return
	}
	for _, n := range slices.Concat(s.Sentinels, s.Nodes) {
		log, err := os.ReadFile(filepath.Join(n.dir, "redis.log"))
		s.tb.Logf("port %d: %v ...%s", n.port, err, log[max(0, len(log)-4000):])
	}
}

func (s *SentinelSet) awaitOther(old *Redis) {
	s.tb.Helper()
	defer s.explain()
	within(s.tb, sentinelPatience, "another master", func() bool {
		for _, n := range s.Sentinels {
			v, _ := n.Try("SENTINEL", "MASTER", s.Name)
			if m := pairs(v); m["port"] == "" || m["port"] == strconv.Itoa(old.port) || m["flags"] != "master" {
				return false
			}
		}
		return true
	})
}

// ClusterSet is a Redis Cluster of three masters.
type ClusterSet struct {
	Nodes []*Redis
	tb    testing.TB
}

// Cluster starts three masters that share the 16384 slots.
func Cluster(tb testing.TB) *ClusterSet {
	tb.Helper()
	set := &ClusterSet{tb: tb}
	var bus []int
	for i := range 3 {
		bus = append(bus, FreePort(tb))
		n := Server(tb, "cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 1000",
			"cluster-port "+strconv.Itoa(bus[i]))
		n.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		from, to := i*16384/3, (i+1)*16384/3-1
		n.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(from), strconv.Itoa(to))
		set.Nodes = append(set.Nodes, n)
	}
	for i, n := range set.Nodes[1:] {
		set.Nodes[0].Do("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(n.port), strconv.Itoa(bus[i+1]))
	}
	eventually(tb, "cluster state ok", func() bool {
		for _, n := range set.Nodes {
			v, _ := n.Try("CLUSTER", "INFO")
			info, _ := v.(string)
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_size:3") {
				return false
			}
		}
		return true
	})
	return set
}

// Config is how a client reaches the cluster.
func (s *ClusterSet) Config() cache.Config {
	cfg := cache.Config{Cluster: true, Password: s.Nodes[0].password}
	for _, n := range s.Nodes {
		cfg.Addrs = append(cfg.Addrs, n.Addr())
	}
	return cfg
}

// Client opens a client of the cluster, closed with the test; addresses and password are filled in.
func (s *ClusterSet) Client(tb testing.TB, cfg cache.Config) *cache.Client {
	tb.Helper()
	own := s.Config()
	cfg.Addrs, cfg.Cluster, cfg.Password = own.Addrs, true, own.Password
	return open(tb, cfg)
}

// Owner is the node that holds key.
func (s *ClusterSet) Owner(key string) *Redis {
	s.tb.Helper()
	slot, _ := s.Nodes[0].Do("CLUSTER", "KEYSLOT", key).(int64)
	return s.Nodes[min(int(slot)*3/16384, 2)]
}

// pairs reads a flat list of names and values.
func pairs(v any) map[string]string {
	list, _ := v.([]any)
	m := make(map[string]string, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		k, _ := list[i].(string)
		m[k], _ = list[i+1].(string)
	}
	return m
}
