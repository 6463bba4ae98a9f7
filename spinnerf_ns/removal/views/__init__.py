"""What the photos show of each other's regions."""
