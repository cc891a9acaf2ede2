"""HTTP for all routes: connections, requests, answers, credentials and errors."""
