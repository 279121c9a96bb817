"""The benchmark: the shim in the real worker runtime, against its peers. `make bench` runs it; see NOTES.md."""
