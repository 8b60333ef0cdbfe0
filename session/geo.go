package session

import (
	"fmt"
	"net/netip"

	"github.com/oschwald/maxminddb-golang/v2"
)

// Geo looks places up in an operator's MaxMind DB file (city or country).
type Geo struct{ db *maxminddb.Reader }

// OpenGeo reads a .mmdb file.
func OpenGeo(path string) (*Geo, error) {
	db, err := maxminddb.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open places: %w", err)
	}
	return &Geo{db}, nil
}

// Close ends the use of the file.
func (g *Geo) Close() error { return g.db.Close() }

// Locate is the place of an address as people write it, such as "Lisbon, PT"; "" if it is not known.
func (g *Geo) Locate(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	var place struct {
		City struct {
			Names map[string]string `maxminddb:"names"`
		} `maxminddb:"city"`
		Country struct {
			ISOCode string `maxminddb:"iso_code"`
		} `maxminddb:"country"`
	}
	if err := g.db.Lookup(addr.Unmap().WithZone("")).Decode(&place); err != nil {
		return "" // a damaged record is as good as none
	}
	city, country := place.City.Names["en"], place.Country.ISOCode
	if city == "" || country == "" {
		return bounded(city+country, maxLocation)
	}
	return bounded(city, maxLocation-4) + ", " + bounded(country, 2)
}
