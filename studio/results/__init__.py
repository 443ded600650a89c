"""The result store: files, records, search and archives."""
