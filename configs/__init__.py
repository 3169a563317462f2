"""One file a data set: the recipe, its command and what to expect of it."""
