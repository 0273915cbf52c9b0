"""Patient records: tables and events as text."""
