"""From masks and depth to clean photos and clean depth."""
