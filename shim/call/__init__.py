"""What the caller asks for, and what is asked of upstream for it."""
