"""Everything at once for minutes, over TLS: `make soak`. What the worker holds at the end is what it began with."""
