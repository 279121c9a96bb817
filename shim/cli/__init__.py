"""The operators' command line. Not deployed, and never imported by the app."""
