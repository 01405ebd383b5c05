"""Training and measuring with Lightning."""
