"""What is on disk: a posed capture, the workspace beside it, and the object-free dataset."""
