"""What takes measurements from a pass: one file an extractor."""
