"""Plain torch modules; nothing in this folder imports Lightning."""
