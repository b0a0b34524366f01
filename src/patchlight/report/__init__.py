"""A document that a stranger can check: charts, HTML, English and Japanese."""
