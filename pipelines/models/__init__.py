"""Models: the catalog, the folders they lie in, downloads, loading and the cache."""
