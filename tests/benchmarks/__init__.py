"""How long the hot paths take with the market, against the same Ray without it."""
