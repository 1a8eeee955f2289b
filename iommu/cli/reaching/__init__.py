"""What `vtd reach` prints and writes."""
