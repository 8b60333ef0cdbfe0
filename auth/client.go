package auth

import (
	"net/netip"

	"rootstream/session"
)

// Client is who speaks, as far as a connection tells. It is never proof of anything.
type Client struct {
	IP        netip.Addr // behind trusted proxies only; the zero value means unknown
	UserAgent string
	DeviceID  string // issued by us, sent back by the client
	Network   string // what limits are counted by; "" means Network(IP)
	RequestID string
}

// network is the block of addresses that limits count a client by.
func (c Client) network() string {
	if c.Network != "" {
		return c.Network
	}
	return Network(c.IP)
}

// device is what a new session remembers of the client.
func (c Client) device(name string) session.Device {
	return session.Device{ID: c.DeviceID, Name: name, UserAgent: c.UserAgent, IP: c.IP}
}

// Network is the block of addresses a client can move in freely: /24 of IPv4,
// /64 of IPv6. All without an address share one, so hiding it wins nothing.
func Network(ip netip.Addr) string { return block(ip, 64) }

func block(ip netip.Addr, bits int) string {
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		bits = 24
	}
	block, err := ip.Prefix(bits)
	if err != nil || !ip.IsValid() {
		return "unknown"
	}
	return block.String()
}

// crowd is a block of addresses and how many networks' share it gets.
type crowd struct {
	block string
	share int
}

// crowds are the blocks that limits count a client by: its network, and for
// IPv6 the larger blocks that one customer may hold whole, with less for each
// network in them.
func (c Client) crowds() []crowd {
	all := []crowd{{c.network(), 1}}
	if c.Network == "" && c.IP.IsValid() && !c.IP.Unmap().Is4() {
		all = append(all, crowd{block(c.IP, 56), 2}, crowd{block(c.IP, 48), 4})
	}
	return all
}
