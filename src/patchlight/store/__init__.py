"""What is kept: SQLite tables and content-addressed files."""
