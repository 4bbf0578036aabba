"""The provider's program: it enrols a device, keeps one link to the market and runs leases in a sandbox."""
