"""Keys as operators manage them: listing, issuing, importing."""
