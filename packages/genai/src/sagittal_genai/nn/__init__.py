"""Plain torch modules; they know no Lightning."""
