"""`python -m shim doctor`."""
