"""From a config to live objects, and the loop that trains them."""
