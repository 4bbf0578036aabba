"""The market's HTTP doors, one router a noun."""
