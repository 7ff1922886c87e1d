"""A training by a recipe, from the parsed options to the last block."""
