"""Which pool images the query sets bring up, and which of those are taken."""
