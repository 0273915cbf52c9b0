"""Which image-text pairs to train on: selectors behind one interface."""
