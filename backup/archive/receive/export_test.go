package receive

import "rootstream/backup/wal"

// What the fuzz targets and tables of parsers reach.
func ParseMessage(b []byte) (at wal.LSN, data []byte, server wal.LSN, ask bool, err error) {
	m, err := parseMessage(b)
	return m.at, m.data, m.server, m.ask, err
}

func ParseSize(text string) (uint32, error) { return parseSize(text) }

func ParseBranchOff(row [][]byte) (wal.TimelineID, wal.LSN, error) {
	b, err := parseBranchOff(row)
	if err != nil {
		return 0, 0, err
	}
	return b.tli, b.at, nil
}

func Leave(h wal.History, tli wal.TimelineID, reached wal.LSN) (wal.TimelineID, wal.LSN, bool) {
	b, ok := leave(h, tli, reached)
	return b.tli, b.at, ok
}
