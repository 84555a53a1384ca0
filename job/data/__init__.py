"""Second room: where images come from, and in which order they are seen."""
