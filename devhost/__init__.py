"""Runs the Functions app without Core Tools, and a stand-in for the APIM API behind it. Never deployed."""
