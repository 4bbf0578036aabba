"""The names by which the market's own things are known inside a Ray cluster."""

NODE_LABEL = "spare-node"
"""Ray label that carries the market's id of a node."""
PROBE_CLASS = "SpareProbe"
"""Class of the actor that answers the warden's challenges; it does not count as work."""
