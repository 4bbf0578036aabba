"""Stand-ins for what billing talks to, run on loopback: a Stripe that remembers, refuses and fails on demand."""
