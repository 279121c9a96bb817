"""The operators' command line. Deployed with the app, and never imported by it."""
