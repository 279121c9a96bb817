"""Azure's SDKs, and what their failures mean."""
