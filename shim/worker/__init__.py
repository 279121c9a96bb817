"""The Functions worker's HTTP extension: how a request reaches the app."""
