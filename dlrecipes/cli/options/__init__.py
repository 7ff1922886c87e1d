"""What a user may type, and what becomes of it."""
