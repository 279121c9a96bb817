"""Keys as operators manage them: listing, issuing, rotating, importing."""
