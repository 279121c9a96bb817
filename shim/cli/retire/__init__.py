"""`python -m shim retire`, and who is left."""
