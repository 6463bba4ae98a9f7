"""From a photo and clicks to an object mask in every training photo."""
