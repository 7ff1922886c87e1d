"""Who is trained on, who is validated on, and in which fold."""
