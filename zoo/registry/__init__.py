"""What exists, known without importing it."""
