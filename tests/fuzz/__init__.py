"""Random callers and random upstreams, from a seed: `make fuzz`. docs/robustness.md says what they look for."""
