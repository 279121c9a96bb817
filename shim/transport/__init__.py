"""HTTP/1.1 to other servers: connections, TLS and proxies, and no word of what it is for."""
