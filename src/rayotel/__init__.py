"""rayotel keeps the history of Ray clusters and answers questions about them."""

__version__ = "0.2.0"
