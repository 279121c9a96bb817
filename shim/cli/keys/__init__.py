"""`python -m shim keys`."""
