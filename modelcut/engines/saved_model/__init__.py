"""SavedModels as graphs: signatures, inference, export."""
