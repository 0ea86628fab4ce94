"""The network as layers and calls. Nothing is run and no file is opened."""
