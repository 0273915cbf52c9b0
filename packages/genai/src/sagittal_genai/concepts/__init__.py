"""From sparse features to words and back: names, their judge, search, and a gallery to read."""
