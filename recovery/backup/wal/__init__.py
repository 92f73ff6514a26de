"""The WAL archive: what a server writes, kept at several locations, provably without a gap."""
