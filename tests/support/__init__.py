"""What tests and benchmarks share: servers, lakes, requests, and the truth to compare with."""
