"""Stand-ins for Azure's services on loopback: Key Vault, the identity endpoint and API Management's control plane."""
