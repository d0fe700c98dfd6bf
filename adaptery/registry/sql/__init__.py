"""The catalogue: versions, aliases and events in SQLite or PostgreSQL, one code path over both."""
