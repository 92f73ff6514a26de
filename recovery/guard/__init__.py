"""The guard of a region: the only one that makes a primary, and the one that ends it."""
