"""What the original never had: a file for each capability."""
