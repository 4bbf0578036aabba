"""Every table of the market in one import, for migrations."""
