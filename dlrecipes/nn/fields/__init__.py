"""What each part of a network sees of the image: exactly, and by gradients."""
