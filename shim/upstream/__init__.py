"""The APIM API: connections to it, and what goes wrong with them."""
