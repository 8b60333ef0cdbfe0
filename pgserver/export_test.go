package pgserver

// What the fuzz targets and tables of parsers reach.
func ParsePass(line string) (user, pass string, ok bool) { return parsePass(line) }
func ParseStatus(text string) (Status, error)            { return parseStatus(text) }
func ParseVersion(out string) (string, int, error)       { return parseVersion(out) }
func SQLState(fields []byte) string                      { return sqlState(fields) }
func QuoteDSN(v string) string                           { return quoteDSN(v) }
