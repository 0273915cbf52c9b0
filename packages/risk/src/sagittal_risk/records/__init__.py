"""Patient records: tables by a schema, rows and events as text."""
