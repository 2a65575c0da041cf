"""What every room stands on: contracts, errors, files, seeds, pages."""
