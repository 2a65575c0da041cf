"""From words to one checked, plain config."""
