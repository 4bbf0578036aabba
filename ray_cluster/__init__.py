"""What ran, and was it true."""
