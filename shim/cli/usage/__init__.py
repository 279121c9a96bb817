"""`python -m shim usage`: who called, how often, and what it took, from Log Analytics."""
