"""The benchmark: scenes x methods x seeds."""
