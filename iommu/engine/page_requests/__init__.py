"""Page requests and their queue (spec 7.4)."""
