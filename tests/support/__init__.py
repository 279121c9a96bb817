"""What tests share: helpers that are no test themselves."""
