"""SavedModel folders and archives of them."""
